"""Gate and up of the experts travel in the order of `w13_weight`, where that is one range at every receiver."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hardpoint.moe import LayoutDescriptor
from hardpoint.sync.plan import Coordinates, Offer, SyncPlan, make_plan
from hardpoint.sync.stream import cuts_of
from support.plan_models import Small

WIDE = LayoutDescriptor(6, 8, 16, dtype=torch.bfloat16)  # a row of 8 values, 16 rows: boxes of 256 bytes


def plan(layout: LayoutDescriptor, *places: Coordinates) -> SyncPlan:
    model = replace(Small(), experts=layout)
    spec = model.spec()
    return make_plan(Offer.of(model.tensors()), spec.receivers(places), ignored=spec.ignored)


def ranges(of: SyncPlan, parameter: str) -> list[int]:
    """Bytes of the messages that hold nothing but `parameter`, of any shard, as cut with no regard to size."""
    number = [d.parameter for d in of.shards[0]].index(parameter)
    return [
        cut.nbytes
        for bucket in of.buckets
        for cut in cuts_of(bucket, 64)
        if {landing.parameter for _, move in cut.pieces for landing in move.landings} == {number}
    ]


@pytest.mark.parametrize("order", ["w13", "w31"])
@pytest.mark.parametrize("places", [(Coordinates(),), (Coordinates(), Coordinates(dp_rank=1, dp_size=2))])
def test_w13_is_one_message(order: str, places: tuple[Coordinates, ...]) -> None:
    made = plan(replace(WIDE, order=order), *places)  # type: ignore[arg-type]
    assert ranges(made, "model.layers.1.mlp.experts.w13_weight") == [6 * 2 * 16 * 8 * 2]


def test_so_it_is_for_each_rank_of_tensor_and_expert_parallelism() -> None:
    cut = plan(WIDE, Coordinates(0, 2), Coordinates(1, 2))
    assert ranges(cut, "model.layers.1.mlp.experts.w13_weight") == [1536] * 2
    spread = [Coordinates(ep_rank=rank, ep_size=3) for rank in range(3)]
    assert ranges(plan(WIDE, *spread), "model.layers.1.mlp.experts.w13_weight") == [1024] * 3


def test_receivers_that_disagree_about_the_order_of_halves_are_sent_boxes_one_by_one() -> None:
    model, other = replace(Small(), experts=WIDE), replace(Small(), experts=replace(WIDE, order="w31"))
    receivers = model.spec().receivers({1: Coordinates()}) + other.spec().receivers({2: Coordinates()})
    made = make_plan(Offer.of(model.tensors()), receivers, ignored=model.spec().ignored)
    assert ranges(made, "model.layers.1.mlp.experts.w13_weight") == [256] * 12


@pytest.mark.parametrize("layout", [replace(WIDE, axes="[E,K,N]"), replace(WIDE, order="interleaved")])
def test_a_storage_that_holds_them_otherwise_is_left_alone(layout: LayoutDescriptor) -> None:
    moves = [move for bucket in plan(layout, Coordinates()).buckets for _, move in bucket.pieces]
    assert max(len(move.sources) for move in moves) == 6
