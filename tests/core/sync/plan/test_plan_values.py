"""What a plan writes: each element of each rank once, with the value that plain slicing gives, at the same address."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint.moe import CHECKPOINT_FORMATS, PER_EXPERT, CheckpointFormat, LayoutDescriptor
from hardpoint.sync.plan import Coordinates, Offer, Sources, Storages, SyncPlan, make_plan
from hardpoint.sync.plan.execute import new_buffer
from support.plan_models import Small, Tensors


def parallel(tp: int, pp: int, ep: bool, dp: int) -> dict[int, Coordinates]:
    """Rank -> place; with `ep` the experts go over the tensor and data parallel ranks of a stage."""
    found: dict[int, Coordinates] = {}
    for stage, replica, rank in product(range(pp), range(dp), range(tp)):
        at = Coordinates(rank, tp, stage, pp, dp_rank=replica, dp_size=dp)
        if ep:
            at = replace(at, ep_rank=replica * tp + rank, ep_size=tp * dp)
        found[len(found) + 1] = at
    return found


def poisoned(plan: SyncPlan, rank: int) -> Tensors:
    found = {}
    for of in plan.destinations_for(rank):
        dtype = getattr(torch, of.dtype)
        found[of.parameter] = torch.full(of.shape, 0x5A, dtype=torch.uint8).repeat_interleave(dtype.itemsize, -1).view(
            dtype
        ) if of.shape else torch.tensor(0x5A5A, dtype=dtype)  # fmt: skip
    return found


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(
        a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8)
    )  # fmt: skip


def written_once(plan: SyncPlan, rank: int) -> bool:
    """Counted element by element over the finished plan, splits and padding included."""
    destinations = plan.destinations_for(rank)
    counts = [torch.zeros(max(1, torch.Size(of.shape).numel()), dtype=torch.int32) for of in destinations]
    for bucket in plan.buckets_for(rank):
        for _, move, landing in plan.landings(bucket, rank):
            for box in range(len(move.sources)):
                counts[landing.parameter].as_strided(
                    move.sizes, landing.strides, landing.offset + box * landing.step
                ).add_(1)
    for of, count in zip(destinations, counts, strict=True):
        for lows, sizes in of.zeros:
            start = sum(low * stride for low, stride in zip(lows, of.strides, strict=True))
            count.as_strided(sizes, of.strides, start).add_(1)
    sizes = [torch.Size(of.shape).numel() for of in destinations]
    return all(bool((count[:size] == 1).all()) for size, count in zip(sizes, counts, strict=True))


def run(plan: SyncPlan, tensors: Tensors) -> dict[int, Storages]:
    """Carry the plan out through its buckets, on poisoned storages."""
    sources = Sources(plan, tensors)
    storages = {rank: Storages(plan, rank, poisoned(plan, rank)) for rank in plan.shard_of}
    for storage in storages.values():
        storage.clear_padding()
    for bucket in plan.buckets:
        buffer = new_buffer(bucket)
        sources.pack(bucket, buffer)
        for rank in plan.audience(bucket):
            storages[rank].land(bucket, buffer)
    return storages


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
