"""gpt-oss: biases of experts and MXFP4's blocks and scales, against plain slices; every rank, every kernel order."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint.errors import LayoutError, SyncError
from hardpoint.moe import (
    GPT_OSS,
    GPT_OSS_BLOCKS,
    GPT_OSS_SCALES,
    PER_EXPERT,
    CheckpointFormat,
    LayoutDescriptor,
    ReferenceMoELayout,
    pack_biases,
    unpack_biases,
)
from hardpoint.sync.plan import Coordinates, ExpertBiases, Experts, ModelSpec, Offer, PlanRefused, make_plan
from hardpoint.sync.plan.blocks import moe_biases
from support.plan_runs import parallel, run, same_bits, written_once

LAYER = "model.layers.0.mlp"
EXPERTS, HIDDEN, SIZE = 6, 5, 8
Tensors = dict[str, torch.Tensor]


def bits(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    count = torch.Size(shape).numel() * dtype.itemsize
    return torch.randint(0, 256, (count,), generator=generator, dtype=torch.uint8).view(dtype).reshape(shape)


def biases(form: CheckpointFormat, seed: int) -> tuple[Tensors, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A checkpoint in `form`; and gate, up ``[E, I]`` and down ``[E, H]`` as they are."""
    gate, up, down = (
        bits(EXPERTS, SIZE, seed=seed),
        bits(EXPERTS, SIZE, seed=seed + 1),
        bits(EXPERTS, HIDDEN, seed=seed + 2),
    )
    if form is PER_EXPERT:
        found = {}
        for expert in range(EXPERTS):
            for name, of in (("gate", gate), ("up", up), ("down", down)):
                found[f"{LAYER}.experts.{expert}.{name}_proj.bias"] = of[expert].clone()
        return found, gate, up, down
    both = torch.stack((gate, up), 2).reshape(EXPERTS, 2 * SIZE)  # gate on even places, up on odd ones
    return {f"{LAYER}.experts.gate_up_proj_bias": both, f"{LAYER}.experts.down_proj_bias": down}, gate, up, down


layouts = st.builds(
    LayoutDescriptor,
    st.just(EXPERTS),
    st.just(HIDDEN),
    st.just(SIZE),
    dtype=st.just(torch.bfloat16),
    order=st.sampled_from(["w13", "w31", "interleaved"]),
    axes=st.sampled_from(["[E,N,K]", "[E,K,N]"]),
    padded_intermediate=st.sampled_from([None, 8, 11]),
)


def expected(layout: LayoutDescriptor, at: Coordinates, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor):  # type: ignore[no-untyped-def]
    """With plain slices."""
    spread = at.ep_size > 1
    each, more = divmod(EXPERTS, at.ep_size)
    first = at.ep_rank * each + min(at.ep_rank, more)
    here = slice(first, first + each + (at.ep_rank < more))
    ranks, rank = (1, 0) if spread else (at.tp_size, at.tp_rank)
    half = SIZE // ranks
    padded = layout.padded_intermediate or half
    parts = []
    for of in (gate, up):
        room = torch.zeros(len(of[here]), padded, dtype=torch.bfloat16)
        room[:, :half] = of[here, rank * half : (rank + 1) * half]
        parts.append(room)
    if layout.order == "w31":
        parts.reverse()
    w13 = torch.stack(parts, 2).flatten(1) if layout.order == "interleaved" else torch.cat(parts, 1)
    return w13, down[here] if rank == 0 else torch.zeros_like(down[here])


@settings(max_examples=60)
@given(
    layout=layouts,
    form=st.sampled_from([GPT_OSS, PER_EXPERT]),
    tp=st.sampled_from([1, 2, 4]),
    ep=st.booleans(),
    dp=st.sampled_from([1, 2]),
    bucket=st.sampled_from([64, 192, 1 << 20]),
    seed=st.integers(0, 99),
)
def test_every_rank_holds_its_slice(
    layout: LayoutDescriptor, form: CheckpointFormat, tp: int, ep: bool, dp: int, bucket: int, seed: int
) -> None:
    named, *whole = biases(form, seed)
    ranks = parallel(tp, 1, ep, dp)
    spec = ModelSpec(moe_biases(0, layout, checkpoint=form), 1)
    offer = Offer.of(named, replace(form.companion("bias")))
    plan = make_plan(offer, spec.receivers(ranks), bucket_bytes=bucket)
    storages = run(plan, named)
    for rank, at in ranks.items():
        w13, w2 = expected(layout, at, *whole)
        found = storages[rank].named
        assert same_bits(found[f"{LAYER}.experts.w13_bias"], w13), at
        assert same_bits(found[f"{LAYER}.experts.w2_bias"], w2), at
        assert written_once(plan, rank)
        placed = Experts(LAYER, layout).placed(at)
        packed = pack_biases(named, placed, checkpoint=form, layer=LAYER)
        assert same_bits(packed.w13_bias, w13) and same_bits(packed.w2_bias, w2)


@given(layout=layouts, form=st.sampled_from([GPT_OSS, PER_EXPERT]), seed=st.integers(0, 99))
def test_unpacking_is_the_inverse(layout: LayoutDescriptor, form: CheckpointFormat, seed: int) -> None:
    named, *_ = biases(form, seed)
    again = unpack_biases(pack_biases(named, layout, checkpoint=form, layer=LAYER), form, LAYER)
    assert again.keys() == named.keys()
    assert all(same_bits(again[name], named[name]) for name in named)


@pytest.mark.parametrize("fault", ["missing", "cut", "fused not interleaved"])
def test_what_does_not_fit_is_named(fault: str) -> None:
    named, *_ = biases(GPT_OSS, 0)
    layout = LayoutDescriptor(EXPERTS, HIDDEN, SIZE)
    name = f"{LAYER}.experts.gate_up_proj_bias"
    form = GPT_OSS.companion("bias")
    if fault == "missing":
        del named[name]
    elif fault == "cut":
        named[name] = named[name][:, :SIZE].contiguous()
    else:
        form = replace(form, name="fused bias", order="w13")
    spec = ModelSpec((ExpertBiases(LAYER, layout),), 1)
    with pytest.raises(PlanRefused, match="gate_up_proj_bias"):
        make_plan(Offer.of(named, form), spec.receivers([Coordinates()]))
    if fault != "fused not interleaved":
        with pytest.raises(LayoutError, match="gate_up_proj_bias"):
            pack_biases(named, layout, checkpoint=GPT_OSS, layer=LAYER)


@settings(max_examples=40)
@given(
    order=st.sampled_from(["w13", "w31", "interleaved"]),
    axes=st.sampled_from(["[E,N,K]", "[E,K,N]"]),
    tp=st.sampled_from([1, 2]),
    ep=st.booleans(),
    seed=st.integers(0, 99),
)
def test_mxfp4_travels_as_bytes(order: str, axes: str, tp: int, ep: bool, seed: int) -> None:
    """Blocks of 32 values in 16 bytes, a scale each: no arithmetic, the same cuts, in a plan as in the layout."""
    hidden, size = 64, 128
    blocks = LayoutDescriptor(3, hidden, size, torch.uint8, order=order, axes=axes, values_per_element=2)  # type: ignore[arg-type]
    scales = LayoutDescriptor(3, hidden // 32, size // 32, torch.uint8, order=order, axes=axes)  # type: ignore[arg-type]
    for layout, form, last in ((blocks, GPT_OSS_BLOCKS, (16,)), (scales, GPT_OSS_SCALES, ())):
        rows = layout.intermediate_size
        shapes = (3, 2 * rows, hidden // 32, *last), (3, layout.hidden_size, size // 32, *last)
        names = form.name_of("gate", None, LAYER), form.name_of("down", None, LAYER)
        named = {
            name: bits(*shape, seed=seed + n, dtype=torch.uint8)
            for n, (name, shape) in enumerate(zip(names, shapes, strict=True))
        }
        ranks = parallel(tp, 1, ep, 1)
        spec = ModelSpec((Experts(LAYER, layout, form),), 1)
        plan = make_plan(Offer.of(named, form), spec.receivers(ranks), bucket_bytes=256)
        storages = run(plan, named)
        for rank, at in ranks.items():
            placed = spec.rules[0].placed(at)  # type: ignore[attr-defined]
            packed = ReferenceMoELayout().pack(named, placed, checkpoint=form, layer=LAYER)
            assert same_bits(storages[rank].named[f"{LAYER}.experts.w13_weight"], packed.w13_weight)
            assert same_bits(storages[rank].named[f"{LAYER}.experts.w2_weight"], packed.w2_weight)
            assert written_once(plan, rank)
            if order == "interleaved" and axes == "[E,N,K]" and tp == 1:
                assert torch.equal(packed.w13_weight, named[names[0]].flatten(2)[list(placed.local_experts)])
            if placed.tp_size == placed.ep_size == 1:
                again = ReferenceMoELayout().unpack(packed, form)
                assert again.keys() == named.keys()
                assert all(torch.equal(again[name], named[name]) for name in named)


def test_a_cut_through_a_block_is_refused() -> None:
    layout = LayoutDescriptor(2, 48, 64, torch.uint8, values_per_element=2)
    rule = Experts(LAYER, layout, GPT_OSS_BLOCKS)
    with pytest.raises((LayoutError, SyncError), match="not a multiple of the 16"):
        list(rule.destinations(Coordinates()))
