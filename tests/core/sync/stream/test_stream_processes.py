"""Streams between real processes over gloo: bits, digests, modes, and what happens when a rank fails in the middle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from support.ranks import RankPool
from support.stream_ranks import WORLDS, Case, bits, digests_of, model, plan_of, updates

DEADLINE = 20.0
CASES = [
    Case("one receiver"),
    Case("one receiver", order="w31", axes="[E,K,N]", padded=6),
    Case("one receiver", order="interleaved", least=1 << 30),
    Case("one receiver", least=64, bucket_bytes=1 << 20),
    Case("tp2", mode="off"),
    Case("tp2", order="w31", mode="undo"),
    Case("ep2"),
    Case("ep2", axes="[E,K,N]", padded=6, mode="undo", bucket_bytes=192),
    Case("pp2", tied=True, mode="undo"),
]


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    made = RankPool(3)
    yield made
    made.close()


def run(pool: RankPool, case: Case, versions: int = 1) -> list[dict[str, Any]]:
    world = 1 + len(WORLDS[case.world])
    return [result.unwrap()[0] for result in pool.run(world, updates, [case], versions, DEADLINE, deadline=60.0)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_receivers_hold_the_last_update_bit_by_bit(pool: RankPool, case: Case) -> None:
    plan, tensors = plan_of(case), model(case).tensors(1)
    sender, *receivers = run(pool, case, versions=2)
    assert sender["error"] == ""
    assert sender["digests"] == digests_of(plan, tensors)
    for rank, result in enumerate(receivers, 1):
        assert result["error"] == ""
        expected = model(case).expected(tensors, WORLDS[case.world][rank])
        assert result["held"] == {name: bits(tensor) for name, tensor in expected.items()}
        for bucket in plan.buckets_for(rank):
            assert result["digests"][bucket.index] == sender["digests"][bucket.index]


@pytest.mark.parametrize("mode", ["shadow", "undo"])
@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_rank_that_fails_in_the_middle_ends_it_for_all_and_nobody_loses_anything(
    pool: RankPool, mode: str, failing: int
) -> None:
    case = Case("tp2", mode=mode, bucket_bytes=192)
    plan = plan_of(case)
    shared = [bucket.index for bucket in plan.buckets if plan.audience(bucket) == (1, 2)]
    case = replace(case, fault=(failing, shared[0]))
    assert len(shared) > 1  # so that there is something left to wait for
    for rank, result in enumerate(run(pool, case)):
        assert result["error"].startswith("Planted" if rank == failing else ("RankLost", "CommunicatorError"))
        # The trainer names who failed, by its rank in the update. A receiver may be talking to the trainer alone at
        # that time, and learns that the trainer has given up; the votes tell it the rest.
        named = (f"rank {failing}",) if rank == 0 else (f"rank {failing}", "rank 0 (pid")
        assert any(who in result["error"] for who in named) or result["error"].startswith("CommunicatorError")
        assert result["held"] == result["before"]
        assert result["seconds"] < DEADLINE / 2


@pytest.mark.parametrize("mode", ["shadow", "undo", "off"])
def test_bytes_of_another_session_are_refused_and_touch_nothing(pool: RankPool, mode: str) -> None:
    case = Case("one receiver", mode=mode, stamp="another")
    _, receiver = run(pool, case)
    assert "belongs to another update" in receiver["error"]
    assert receiver["held"] == receiver["before"]
