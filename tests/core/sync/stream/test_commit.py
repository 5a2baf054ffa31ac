"""The commit of mode shadow as one launch leaves what copying parameter by parameter leaves, at the same addresses."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from hardpoint.sync.plan import Storages
from hardpoint.sync.stream import TorchBoxes, bind_commit
from hardpoint.sync.stream.boxes import Launch, Pair
from hardpoint.sync.transaction import Mode
from hardpoint.sync.transaction.staging import Shadow, staging_for
from support.stream_ranks import Case, bits, live_storages, plan_of


def test_it_copies_every_parameter_in_place() -> None:
    plan = plan_of(Case("one receiver", axes="[E,K,N]", padded=6))
    live = live_storages(plan, 1)
    staged = live.like()
    for number, tensor in enumerate(staged.tensors):
        tensor.fill_(number + 1)
    addresses = {name: tensor.data_ptr() for name, tensor in live.named.items()}
    launch = bind_commit(TorchBoxes(), live, staged)
    assert {name: bits(of) for name, of in live.named.items()} != {name: bits(of) for name, of in staged.named.items()}
    launch()
    assert {name: bits(of) for name, of in live.named.items()} == {name: bits(of) for name, of in staged.named.items()}
    assert {name: tensor.data_ptr() for name, tensor in live.named.items()} == addresses


class Counting(TorchBoxes):
    """Says how often a copy was bound and launched; `alone` as it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.bound: list[bool] = []
        self.launched = 0

    def copy(self, pairs: Sequence[Pair], /, *, alone: bool = False) -> Launch:
        self.bound.append(alone)
        launch = super().copy(pairs)

        def counted() -> None:
            self.launched += 1
            launch()

        return counted


def test_shadow_commits_by_one_launch_that_is_bound_before_the_vote(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, kernels = plan_of(Case("one receiver", padded=6)), Counting()
    live = live_storages(plan, 1)
    addresses = [tensor.data_ptr() for tensor in live.tensors]
    staging = staging_for(Mode.SHADOW, live, kernels)
    assert isinstance(staging, Shadow)
    for number, tensor in enumerate(staging.target.tensors):
        tensor.fill_(number + 1)
    before = {name: bits(of) for name, of in live.named.items()}
    staging.prepare()
    assert (kernels.bound, kernels.launched) == ([True], 0)
    assert {name: bits(of) for name, of in live.named.items()} == before
    monkeypatch.setattr(Storages, "copy_from", None)  # one copy for each parameter
    staging.commit()
    assert (kernels.bound, kernels.launched) == ([True], 1)
    wanted = {name: bits(of) for name, of in staging.target.named.items()}
    assert {name: bits(of) for name, of in live.named.items()} == wanted
    assert [tensor.data_ptr() for tensor in live.tensors] == addresses
