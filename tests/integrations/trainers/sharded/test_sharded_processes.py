"""Sharded trainers over real torch.distributed (gloo): what is gathered, how much memory it takes, how it is sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from hardpoint_trainers import checkpoint_tensors
from support.ranks import RankPool
from support.sharded_trainer import LAYOUTS, MESHES, publish_sharded, stream_of, uneven_rows
from support.trainer_models import tiny_trainer_moe

BUDGETS = (1 << 20, 1 << 14)  # all at once; a quarter of one fused expert tensor's 32 KiB at a time


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    made = RankPool(3)
    yield made
    made.close()


def _run(pool: RankPool, world: int, function: Any, *args: Any) -> list[Any]:
    return [result.unwrap() for result in pool.run(world, function, *args, deadline=90.0)]


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_rank_gets_the_checkpoint_of_the_unsharded_model_within_the_budget(
    pool: RankPool, layout: str, budget: int
) -> None:
    for found in _run(pool, 2, stream_of, layout, budget):
        assert found["wrong"] == []
        assert found["names"] == found["expected"]
        assert found["in manifest order"]
        assert found["oversize"] == ()
        assert found["peak"] <= budget


@pytest.mark.parametrize("layout", MESHES)
def test_experts_that_are_cut_over_two_mesh_axes_stay_within_one_bucket(layout: str) -> None:
    """FSDP2 and expert parallelism at once: no rank ever holds a whole fused tensor, which is two buckets large."""
    pool, budget = RankPool(4), 1 << 13
    try:
        for found in _run(pool, 4, stream_of, layout, budget):
            assert any(placed.count("Shard") == 2 for placed in found["placed"]), found["placed"]
            assert found["wrong"] == []
            assert found["names"] == found["expected"]
            assert found["oversize"] == ()
            assert found["peak"] <= budget < found["largest"]
    finally:
        pool.close()


def test_the_budget_is_what_keeps_memory_low(pool: RankPool) -> None:
    large, small = (_run(pool, 2, stream_of, "fully_shard", budget)[0]["peak"] for budget in BUDGETS)
    assert small <= BUDGETS[1] < large


def test_rows_that_do_not_divide_by_the_ranks(pool: RankPool) -> None:
    for same in _run(pool, 2, uneven_rows):
        assert all(same)
        assert len(same) > 50


def test_sharded_trainer_publishes_and_publishes_again(pool: RankPool) -> None:
    sender, helper, received = _run(pool, 3, publish_sharded, False)
    assert sender == ["published"] * 2
    assert helper == ["gathered"] * 2
    expected = checkpoint_tensors(tiny_trainer_moe())
    for factor, tensors in zip((1, 2), received, strict=True):
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], expected[name] * factor) for name in expected)


def test_a_refused_update_leaves_no_rank_in_a_gather(pool: RankPool) -> None:
    sender, helper, received = _run(pool, 3, publish_sharded, True)
    assert all("not today" in said for said in sender)
    assert helper == ["gathered"] * 2
    assert received == [{}, {}]
