"""A vote of many ranks: messages and seconds of the busiest rank grow with the depth of the tree, not with its size."""

from __future__ import annotations

import pytest
import torch

from hardpoint.sync.plan import Coordinates, ModelSpec, Offer, Storages, make_plan, replicated
from hardpoint.sync.transaction import Coordinator, InProcess, Message, Participant, Stage, Tree
from hardpoint.sync.transaction.messages import Probe

W = {"w": torch.arange(4, dtype=torch.float32)}


class Crowd:
    """`size` receivers of one small tensor, and a trainer."""

    def __init__(self, size: int, arity: int, handling: float = 2e-5) -> None:
        model = ModelSpec((replicated("w", "w", (4,), "float32"),), 1)
        plan = make_plan(
            Offer.of(W),
            model.receivers({rank: Coordinates(dp_rank=rank - 1, dp_size=size) for rank in range(1, size + 1)}),
        )
        self.net = InProcess(latency=5e-5, handling=handling)
        self.ranks = {
            rank: Participant(Storages(plan, rank, {"w": torch.zeros(4)}), arity=arity) for rank in plan.shard_of
        }
        self.trainer = Coordinator(plan, arity=arity)
        for address, node in {0: self.trainer, **self.ranks}.items():
            self.net.replace(address, node)

    def vote(self) -> tuple[float, int, int]:
        """Seconds of the first vote, messages in all, and messages of the busiest rank."""
        self.net.post(0, self.trainer.start("s", 1, W, 0.0, deadline=10.0))
        assert self.net.run(lambda: self.trainer.stage is Stage.STREAM, 10.0)
        return self.net.now, self.net.sent, max(self.net.by_node.values())


@pytest.mark.parametrize("size", [1, 2, 5, 6, 16, 64, 256, 1024])
def test_messages_of_a_vote(size: int) -> None:
    _, messages, busiest = Crowd(size, 4).vote()
    assert messages == 2 * size  # one down and one up for each rank
    assert busiest <= 4 + 1  # its children, and its parent


def test_seconds_grow_with_the_depth_of_the_tree() -> None:
    seconds = {size: Crowd(size, 4).vote()[0] for size in (4, 16, 64, 256, 1024)}
    depth = {size: Tree(size, 4).depth for size in seconds}
    per_hop = [seconds[size] / depth[size] for size in seconds]
    assert max(per_hop) <= 1.5 * min(per_hop), (seconds, depth)
    star = {size: Crowd(size, size).vote()[0] for size in (16, 1024)}
    assert star[1024] > 20 * star[16]  # what it would be without a tree
    assert seconds[1024] < star[1024] / 10


def test_an_update_of_1024_ranks_with_a_dead_one_in_the_middle() -> None:
    """Rank 2 is the parent of a quarter of the ranks: it alone is named, and the next update goes through."""
    crowd = Crowd(1024, 4)
    crowd.net.kill(2)
    crowd.net.post(0, crowd.trainer.start("s", 1, W, 0.0, deadline=10.0))
    assert crowd.net.run(lambda: crowd.trainer.outcome is not None, 20.0)
    outcome = crowd.trainer.outcome
    assert outcome is not None and outcome.missing == (2,) and not outcome.committed
    assert crowd.net.now <= 11.0
    assert crowd.net.run(lambda: crowd.trainer.stage is Stage.REST, 60.0)
    assert all(crowd.ranks[rank].may_serve and crowd.ranks[rank].epoch == 0 for rank in crowd.ranks if rank != 2)
    storages = Storages(crowd.trainer.plan, 2, {"w": torch.zeros(4)})
    crowd.ranks[2] = Participant(storages, epoch=-1, arity=4)
    crowd.net.replace(2, crowd.ranks[2])
    crowd.net.post(0, crowd.trainer.start("t", 2, W, crowd.net.now, deadline=10.0))
    assert crowd.net.run(lambda: crowd.trainer.stage is Stage.REST, 120.0)
    assert crowd.trainer.outcome is not None and crowd.trainer.outcome.everywhere, str(crowd.trainer.outcome)[:500]
    assert {rank.epoch for rank in crowd.ranks.values()} == {2} and torch.equal(storages.tensors[0], W["w"])


def test_a_dead_rank_costs_nobody_elses_vote() -> None:
    """What came in time climbs the tree past the silent one: the trainer asks only whom it has not heard of."""
    crowd = Crowd(1024, 4)
    crowd.net.kill(1024)
    asked: list[int] = []

    def fate(source: int, to: int, message: Message) -> None:
        if isinstance(message, Probe):
            asked.append(to)

    crowd.net.fate = fate
    crowd.net.post(0, crowd.trainer.start("s", 1, W, 0.0, deadline=10.0))
    assert crowd.net.run(lambda: crowd.trainer.outcome is not None, 20.0)
    assert asked == [1024]
    assert crowd.trainer.outcome is not None and crowd.trainer.outcome.missing == (1024,)
