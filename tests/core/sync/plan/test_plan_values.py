"""What a plan writes: each element of each rank once, with the value that plain slicing gives, at the same address."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint.moe import CHECKPOINT_FORMATS, PER_EXPERT, CheckpointFormat, LayoutDescriptor
from hardpoint.sync.plan import Coordinates, Offer, make_plan
from support.plan_models import Small
from support.plan_runs import parallel, run, same_bits, written_once

layouts = st.builds(
    LayoutDescriptor,
    st.just(6),
    st.just(8),
    st.just(4),
    dtype=st.just(torch.bfloat16),
    order=st.sampled_from(["w13", "w31", "interleaved"]),
    axes=st.sampled_from(["[E,N,K]", "[E,K,N]"]),
    padded_intermediate=st.sampled_from([None, 4, 6]),
)


@settings(max_examples=60)
@given(
    layout=layouts,
    form=st.sampled_from(CHECKPOINT_FORMATS),
    tied=st.booleans(),
    tp=st.sampled_from([1, 2, 4]),
    pp=st.sampled_from([1, 2, 3]),
    ep=st.booleans(),
    dp=st.sampled_from([1, 2]),
    bucket=st.sampled_from([64, 128, 192, 1024, 1 << 20]),
    seed=st.integers(0, 99),
)
def test_every_rank_holds_what_slicing_gives(
    layout: LayoutDescriptor,
    form: CheckpointFormat,
    tied: bool,
    tp: int,
    pp: int,
    ep: bool,
    dp: int,
    bucket: int,
    seed: int,
) -> None:
    model = Small(experts=layout, checkpoint=form, tied=tied)
    ranks = parallel(tp, pp, ep, dp)
    spec = model.spec()
    tensors = model.tensors(seed)
    plan = make_plan(Offer.of(tensors, form), spec.receivers(ranks), ignored=spec.ignored, bucket_bytes=bucket)
    storages = run(plan, tensors)
    assert all(of.nbytes <= bucket for of in plan.buckets)
    for rank, at in ranks.items():
        expected = model.expected(tensors, at)
        found = storages[rank].named
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert same_bits(found[name], tensor), f"{name} on rank {rank} at {at}"
        assert written_once(plan, rank)


def test_replicas_share_a_shard_and_one_copy_of_the_bytes() -> None:
    model = Small()
    offer = Offer.of(model.tensors())
    one = make_plan(offer, model.spec().receivers(parallel(2, 1, False, 1)))
    four = make_plan(offer, model.spec().receivers(parallel(2, 1, False, 4)))
    assert len(four.shards) == len(one.shards) == 2
    assert four.sent_bytes == one.sent_bytes
    assert {plan_ranks for bucket in four.buckets for plan_ranks in [four.audience(bucket)]} == {
        (1, 3, 5, 7),
        (2, 4, 6, 8),
        tuple(range(1, 9)),
    }


def test_with_expert_parallelism_each_expert_goes_to_its_owner_alone() -> None:
    model = Small()
    tensors = model.tensors()
    offer = Offer.of(tensors)
    ranks = parallel(3, 1, True, 1)
    ranks = {rank: replace(at, tp_rank=0, tp_size=1) for rank, at in ranks.items()}  # replicated attention
    plan = make_plan(offer, model.spec().receivers(ranks))
    owner = {rank: {2 * (rank - 1), 2 * (rank - 1) + 1} for rank in (1, 2, 3)}
    seen: dict[str, tuple[int, ...]] = {}
    for bucket in plan.buckets:
        for _, move in bucket.pieces:
            for source in move.sources:
                seen[offer.tensors[source].name] = plan.audience(bucket)
    for name, audience in seen.items():
        if ".experts." in name:
            expert = int(name.split(".experts.")[1].split(".")[0])
            assert audience == tuple(rank for rank, owned in owner.items() if expert in owned), name
        else:
            assert audience == (1, 2, 3), name
    assert plan.sent_bytes == offer.nbytes
    experts = sum(spec.nbytes for spec in offer.tensors if ".experts." in spec.name)
    for rank in ranks:
        assert plan.received_bytes(rank) == offer.nbytes - experts + experts // 3


def test_engines_with_other_expert_placements_share_what_both_take() -> None:
    """Experts over 3 ranks in one engine and over 2 in another: each expert leaves the trainer once."""
    model = Small()
    tensors = model.tensors(3)
    ranks = {rank: Coordinates(ep_rank=rank - 1, ep_size=3) for rank in (1, 2, 3)}
    ranks |= {rank: Coordinates(ep_rank=rank - 4, ep_size=2) for rank in (4, 5)}
    offer = Offer.of(tensors)
    plan = make_plan(offer, model.spec().receivers(ranks))
    assert plan.sent_bytes == offer.nbytes
    storages = run(plan, tensors)
    for rank, at in ranks.items():
        for name, tensor in model.expected(tensors, at).items():
            assert same_bits(storages[rank].named[name], tensor), f"{name} on rank {rank}"


def test_tied_embeddings_land_twice_where_the_head_has_storage_of_its_own() -> None:
    model = Small(tied=True)
    spec = model.spec()
    plan = make_plan(Offer.of(model.tensors()), spec.receivers(parallel(1, 2, False, 1)), ignored=spec.ignored)
    embed = next(n for n, t in enumerate(plan.offer.tensors) if t.name == "model.embed_tokens.weight")
    landings = [
        plan.shards[landing.shard][landing.parameter].parameter
        for bucket in plan.buckets
        for _, move in bucket.pieces
        if embed in move.sources
        for landing in move.landings
    ]
    assert landings == ["model.embed_tokens.weight", "lm_head.weight"]


@pytest.mark.parametrize(("dtype", "per"), [(torch.uint8, 2), (torch.float8_e4m3fn, 1), (torch.int32, 8)])
def test_fp8_and_packed_int4_move_as_bits(dtype: torch.dtype, per: int) -> None:
    layout = LayoutDescriptor(
        6, 8, 16, dtype=dtype, values_per_element=per, order="w31", axes="[E,K,N]", padded_intermediate=24
    )
    model = Small(experts=layout, checkpoint=PER_EXPERT)
    tensors = model.tensors(5)
    ranks = parallel(2, 1, False, 1)
    storages = run(make_plan(Offer.of(tensors), model.spec().receivers(ranks), bucket_bytes=64), tensors)
    for rank, at in ranks.items():
        for name, tensor in model.expected(tensors, at).items():
            assert same_bits(storages[rank].named[name], tensor), f"{name} on rank {rank}"
