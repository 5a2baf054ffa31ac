"""`ReferenceLoadSession`: a load is complete, exact and in place, or says by name why not."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardpoint.errors import LayoutError
from hardpoint.moe import PER_EXPERT, LayoutDescriptor, PackedExperts, ReferenceMoELayout, allocate

LAYER = "model.layers.0.mlp"
LAYOUT = ReferenceMoELayout()


def checkpoint(descriptor: LayoutDescriptor, first: int = 1) -> dict[str, torch.Tensor]:
    """Uncut tensors under per expert names; every element is another number."""
    h, i = descriptor.hidden_size, descriptor.intermediate_size
    shapes = {"gate": (i, h), "up": (i, h), "down": (h, i)}
    tensors: dict[str, torch.Tensor] = {}
    for expert in range(descriptor.num_experts):
        for shard, (n, k) in shapes.items():
            values = torch.arange(first, first + n * k, dtype=torch.float32).reshape(n, k)
            tensors[f"{LAYER}.experts.{expert}.{shard}_proj.weight"] = values.to(descriptor.dtype)
            first += n * k
    return tensors


def layer(
    order: str = "w13", axes: str = "[E,N,K]", padded: int | None = None, tp: int = 1, ep: int = 1, rank: int = 0
) -> PackedExperts:
    """Storage of 3 experts, H 4 and I 6, for one rank; filled with what no load may leave."""
    descriptor = LayoutDescriptor(
        3,
        4,
        6,
        dtype=torch.float32,
        order=order,  # type: ignore[arg-type]
        axes=axes,  # type: ignore[arg-type]
        padded_intermediate=padded,
        tp_rank=rank % tp,
        tp_size=tp,
        ep_rank=rank // tp,
        ep_size=ep,
    )
    packed = allocate(descriptor, "cpu", LAYER)
    packed.w13_weight.fill_(-1.0)
    packed.w2_weight.fill_(-1.0)
    return packed


@given(
    order=st.sampled_from(["w13", "w31", "interleaved"]),
    axes=st.sampled_from(["[E,N,K]", "[E,K,N]"]),
    padded=st.sampled_from([None, 6, 8]),
    tp=st.sampled_from([1, 2, 3]),
    ep=st.sampled_from([1, 2]),
    seed=st.integers(0, 99),
)
def test_a_load_in_any_order_equals_packing_and_keeps_the_storage(
    order: str, axes: str, padded: int | None, tp: int, ep: int, seed: int
) -> None:
    for rank in range(tp * ep):
        packed = layer(order, axes, padded, tp, ep, rank)
        before = (packed.w13_weight.data_ptr(), packed.w2_weight.data_ptr())
        items = list(checkpoint(packed.descriptor).items())
        random.Random(seed).shuffle(items)
        session = LAYOUT.load(packed)
        written = sum(session.write(name, tensor) for name, tensor in items)
        assert written == 3 * len(packed.descriptor.local_experts)
        assert session.missing() == ()
        after = session.finish()
        assert (after.w13_weight.data_ptr(), after.w2_weight.data_ptr()) == before
        whole = LAYOUT.pack(checkpoint(packed.descriptor), packed.descriptor, layer=LAYER)
        assert torch.equal(packed.w13_weight, whole.w13_weight)
        assert torch.equal(packed.w2_weight, whole.w2_weight)


def test_what_is_missing_is_named_and_the_load_does_not_finish() -> None:
    packed = layer()
    session = LAYOUT.load(packed, PER_EXPERT)
    tensors = checkpoint(packed.descriptor)
    left = f"{LAYER}.experts.1.up_proj.weight"
    for name, tensor in tensors.items():
        if name != left:
            session.write(name, tensor)
    assert session.missing() == (left,)
    with pytest.raises(LayoutError, match=r"experts\.1\.up_proj\.weight"):
        session.finish()
    session.write(left, tensors[left])
    session.finish()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_second_write_is_refused_on_the_rank_that_has_the_expert_and_on_the_one_that_has_not(rank: int) -> None:
    packed = layer(ep=2, rank=rank)
    name = f"{LAYER}.experts.2.down_proj.weight"
    session = LAYOUT.load(packed)
    tensor = checkpoint(packed.descriptor)[name]
    assert session.write(name, tensor) == rank  # expert 2 is on the second rank
    stored = packed.w2_weight.clone()
    with pytest.raises(LayoutError, match=r"experts\.2\.down_proj"):
        session.write(name, tensor + 1)
    assert torch.equal(packed.w2_weight, stored)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("experts.0.gate_proj.weight", lambda tensor: tensor.t().contiguous()),
        ("experts.0.gate_proj.weight", lambda tensor: tensor[:3]),
        ("experts.0.gate_proj.weight", lambda tensor: tensor.to(torch.bfloat16)),
        ("experts.3.gate_proj.weight", lambda tensor: tensor),
        ("experts.0.w1.weight", lambda tensor: tensor),
    ],
    ids=["transposed", "cut", "dtype", "expert", "name"],
)
def test_a_tensor_that_does_not_fit_is_refused_by_name_and_nothing_is_written(name: str, change: object) -> None:
    packed = layer()
    tensor = checkpoint(packed.descriptor)[f"{LAYER}.experts.0.gate_proj.weight"]
    session = LAYOUT.load(packed)
    with pytest.raises(LayoutError, match=name.replace(".", r"\.")):
        session.write(f"{LAYER}.{name}", change(tensor))  # type: ignore[operator]
    assert bool((packed.w13_weight == -1).all())
