"""Where buckets are cut into messages: every byte of every piece in one message, large runs alone."""

from __future__ import annotations

import pytest

from hardpoint.sync.stream import cuts_of
from support.stream_ranks import WORLDS, Case, plan_of


@pytest.mark.parametrize("least", [1, 64, 256, 1 << 20])
@pytest.mark.parametrize("world", WORLDS)
def test_messages_hold_every_box_once_and_in_its_place(world: str, least: int) -> None:
    for bucket in plan_of(Case(world, axes="[E,K,N]", padded=6)).buckets:
        boxes = [
            (at + n * move.pitch, move.sources[n], [(of.parameter, of.offset + n * of.step) for of in move.landings])
            for at, move in bucket.pieces
            for n in range(len(move.sources))
        ]
        found = []
        end = 0
        for cut in cuts_of(bucket, least):
            assert end <= cut.start < cut.stop <= bucket.nbytes
            end = cut.stop
            for at, move in cut.pieces:
                found += [
                    (at + n * move.pitch, source, [(of.parameter, of.offset + n * of.step) for of in move.landings])
                    for n, source in enumerate(move.sources)
                ]
                assert cut.start <= at and at + (len(move.sources) - 1) * move.pitch + move.box_bytes <= cut.stop
        assert found == boxes


def test_what_is_large_and_one_range_travels_alone_and_all_else_together() -> None:
    plan = plan_of(Case("one receiver", bucket_bytes=1 << 20))
    assert len(plan.buckets) == 1
    cuts = cuts_of(plan.buckets[0], 300)
    parameters = [
        {plan.shards[0][of.parameter].parameter for _, move in cut.pieces for of in move.landings} for cut in cuts
    ]
    assert {"model.embed_tokens.weight"} in parameters
    assert sum(len(one) > 1 for one in parameters) >= 1
    assert len(cuts_of(plan.buckets[0], 1 << 30)) == 1
