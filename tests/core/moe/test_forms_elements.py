"""Every declared form of expert weights, element by element.

Each value is a number that says which element of the model it is, so a wrong place shows as what lies there. The
expected place is worked out from the index formulas in the docstring of `LayoutDescriptor`, not from slices and views.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint.moe import (
    CHECKPOINT_FORMATS,
    FUSED,
    FUSED_TRANSPOSED,
    GPT_OSS,
    CheckpointFormat,
    LayoutDescriptor,
    PackedExperts,
    ReferenceMoELayout,
    allocate,
)

LAYER = "model.layers.7.mlp"
SHARDS = ("gate", "up", "down")
# (dtype, values per element): plain, fp8 as bytes, int4 as bytes (two a byte) and as words of eight.
STORAGE = [
    (torch.bfloat16, 1),
    (torch.float16, 1),
    (torch.float32, 1),
    (torch.float8_e4m3fn, 1),
    (torch.float8_e5m2, 1),
    (torch.uint8, 2),
    (torch.int32, 8),
]


def identity(shard: str, expert: int, n: int, k: int) -> int:
    """A number for one storage element of the whole model; 1 up, so that it is never a padding's zero."""
    return 1 + (((SHARDS.index(shard) * 5 + expert) * 97 + n) * 89 + k) * 2654435761 % 0xFFFFFFFB


def as_elements(numbers: list[int], shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """`numbers` cut to the width of `dtype`, as its bits. One byte tells most, not all."""
    width = dtype.itemsize
    raw = b"".join((number % (256**width - 1) + 1 if number else 0).to_bytes(width, "little") for number in numbers)
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(dtype).reshape(shape)


@st.composite
def layouts(draw: st.DrawFn) -> LayoutDescriptor:
    """One rank's layout: any order, axes, padding, dtype and coordinates."""
    dtype, per = draw(st.sampled_from(STORAGE))
    tp, ep = draw(st.sampled_from([(1, 1), (2, 1), (3, 1), (1, 2), (1, 3), (2, 2), (2, 3)]))
    experts = draw(st.integers(ep, 5))
    rows = draw(st.integers(1, 3)) * per
    hidden = draw(st.integers(1, 4)) * per
    padded = draw(st.sampled_from([None, rows, rows + per, rows + 3 * per]))
    expert_map = None
    if draw(st.booleans()):
        owners = draw(st.lists(st.integers(0, ep - 1), min_size=experts, max_size=experts))
        mine = draw(st.permutations([e for e in range(experts) if owners[e] == 0]))
        expert_map = tuple(mine.index(e) if e in mine else -1 for e in range(experts))
    return LayoutDescriptor(
        experts,
        hidden,
        rows * tp,
        dtype=dtype,
        order=draw(st.sampled_from(["w13", "w31", "interleaved"])),
        axes=draw(st.sampled_from(["[E,N,K]", "[E,K,N]"])),
        padded_intermediate=padded,
        values_per_element=per,
        tp_rank=draw(st.integers(0, tp - 1)),
        tp_size=tp,
        ep_rank=draw(st.integers(0, ep - 1)),
        ep_size=ep,
        expert_map=expert_map,
        w13_state=draw(st.sampled_from(["model", "kernel"])),
        w2_state=draw(st.sampled_from(["model", "kernel"])),
    )


def checkpoint(layout: LayoutDescriptor, form: CheckpointFormat) -> dict[str, torch.Tensor]:
    """The whole layer as a file has it."""
    e, per = layout.num_experts, layout.values_per_element
    size, hidden = layout.intermediate_size, layout.hidden_size
    extent = {"gate": (size, hidden // per), "up": (size, hidden // per), "down": (hidden, size // per)}

    def matrix(rows: list[tuple[str, int]], expert: int, columns: int) -> list[int]:
        # rows: which shard and which of its rows each row is.
        numbers = [[identity(shard, expert, n, k) for k in range(columns)] for shard, n in rows]
        if form.axes == "[E,K,N]":
            numbers = [list(column) for column in zip(*numbers, strict=True)]
        return [number for row in numbers for number in row]

    def shape(rows: int, columns: int) -> tuple[int, int]:
        return (columns, rows) if form.axes == "[E,K,N]" else (rows, columns)

    tensors: dict[str, torch.Tensor] = {}
    if not form.fused:
        for expert in range(e):
            for shard, pattern in zip(SHARDS, form.patterns, strict=True):
                rows, columns = extent[shard]
                numbers = matrix([(shard, n) for n in range(rows)], expert, columns)
                name = f"{LAYER}.{pattern.format(expert=expert)}"
                tensors[name] = as_elements(numbers, shape(rows, columns), layout.dtype)
        return tensors
    if form.order == "interleaved":
        gate_up = [(shard, n) for n in range(size) for shard in ("gate", "up")]
    else:
        gate_up = [("gate", n) for n in range(size)] + [("up", n) for n in range(size)]
    for name, rows, columns in (
        (form.patterns[0], gate_up, hidden // per),
        (form.patterns[2], [("down", n) for n in range(hidden)], size // per),
    ):
        numbers = [number for expert in range(e) for number in matrix(rows, expert, columns)]
        tensors[f"{LAYER}.{name}"] = as_elements(numbers, (e, *shape(len(rows), columns)), layout.dtype)
    return tensors


def expected(layout: LayoutDescriptor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both storages of the rank, by formula."""
    per, size = layout.values_per_element, layout.intermediate_size // layout.tp_size
    first = layout.tp_rank * size
    local = layout.expert_map or linear(layout)
    experts = [local.index(index) for index in range(max(local) + 1)]

    def padded(state: str) -> int:
        return layout.padded_intermediate or size if state == "kernel" else size

    def storage(n_size: int, k_size: int, state: str, element: object) -> torch.Tensor:
        turned = state == "kernel" and layout.axes == "[E,K,N]"
        numbers = [
            element(expert, *((b, a) if turned else (a, b)))  # type: ignore[operator]
            for expert in experts
            for a in range(k_size if turned else n_size)
            for b in range(n_size if turned else k_size)
        ]
        shape = (len(experts), k_size, n_size) if turned else (len(experts), n_size, k_size)
        return as_elements(numbers, shape, layout.dtype)

    def w13(expert: int, n: int, k: int) -> int:
        half = padded(layout.w13_state)
        order = layout.order if layout.w13_state == "kernel" else "w13"
        if order == "interleaved":
            which, row = n % 2, n // 2
        else:
            which, row = n // half, n % half
            which = 1 - which if order == "w31" else which
        return identity(("gate", "up")[which], expert, first + row, k) if row < size else 0

    def w2(expert: int, n: int, k: int) -> int:
        return identity("down", expert, n, first // per + k) if k < size // per else 0

    return (
        storage(2 * padded(layout.w13_state), layout.hidden_size // per, layout.w13_state, w13),
        storage(layout.hidden_size, padded(layout.w2_state) // per, layout.w2_state, w2),
    )


def linear(layout: LayoutDescriptor) -> tuple[int, ...]:
    """vLLM's placement, counted out: as equal as it goes, the first ranks take one more."""
    owners: list[int] = []
    for rank in range(layout.ep_size):
        share = layout.num_experts // layout.ep_size + (1 if rank < layout.num_experts % layout.ep_size else 0)
        owners += [rank] * share
    mine = [expert for expert, rank in enumerate(owners) if rank == layout.ep_rank]
    return tuple(mine.index(expert) if expert in mine else -1 for expert in range(layout.num_experts))


def same(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return found.shape == wanted.shape and torch.equal(found.contiguous().view(torch.uint8), wanted.view(torch.uint8))


def nobody_home(layout: LayoutDescriptor) -> bool:
    return not any(index >= 0 for index in layout.expert_map or (0,))


def assert_is(packed: PackedExperts, layout: LayoutDescriptor) -> None:
    if nobody_home(layout):
        assert packed.w13_weight.numel() == packed.w2_weight.numel() == 0
        return
    w13, w2 = expected(layout)
    assert same(packed.w13_weight, w13), "w13_weight"
    assert same(packed.w2_weight, w2), "w2_weight"


@settings(max_examples=150)
@given(layout=layouts(), form=st.sampled_from(CHECKPOINT_FORMATS))
def test_each_element_is_where_the_descriptor_says(layout: LayoutDescriptor, form: CheckpointFormat) -> None:
    packed = ReferenceMoELayout().pack(checkpoint(layout, form), layout, checkpoint=form, device="cpu", layer=LAYER)
    assert_is(packed, layout)


@settings(max_examples=100)
@given(layout=layouts(), other=layouts(), form=st.sampled_from(CHECKPOINT_FORMATS))
def test_from_form_to_form_and_back_in_place(
    layout: LayoutDescriptor, other: LayoutDescriptor, form: CheckpointFormat
) -> None:
    """Any form to any other form of the same experts, and back into the same storage, at the same address."""
    reference = ReferenceMoELayout()
    other = replace(
        layout,
        order=other.order,
        axes=other.axes,
        padded_intermediate=None if layout.padded_intermediate is None else 2 * layout.padded_intermediate,
        w13_state=other.w13_state,
        w2_state=other.w2_state,
    )
    packed = reference.pack(checkpoint(layout, form), layout, checkpoint=form, device="cpu", layer=LAYER)
    addresses = packed.w13_weight.data_ptr(), packed.w2_weight.data_ptr()
    moved = allocate(other, "cpu", LAYER)  # not pack(): what is packed already would come back as it is
    reference.copy_into(packed, moved)
    assert_is(moved, other)
    packed.w13_weight.view(torch.uint8).fill_(0xA5)
    packed.w2_weight.view(torch.uint8).fill_(0xA5)
    for _ in range(2):  # twice is once
        reference.copy_into(moved, packed)
        assert_is(packed, layout)
    assert (packed.w13_weight.data_ptr(), packed.w2_weight.data_ptr()) == addresses


@settings(max_examples=60)
@given(layout=layouts(), form=st.sampled_from(CHECKPOINT_FORMATS))
def test_unpacking_all_ranks_gives_the_checkpoint(layout: LayoutDescriptor, form: CheckpointFormat) -> None:
    """Tensor and expert parallel ranks together hold each element of the checkpoint, once."""
    reference = ReferenceMoELayout()
    whole = checkpoint(layout, form)
    layout = replace(layout, expert_map=None)
    found: dict[tuple[int, int, str], torch.Tensor] = {}
    for ep_rank in range(layout.ep_size):
        for tp_rank in range(layout.tp_size):
            mine = replace(layout, tp_rank=tp_rank, ep_rank=ep_rank)
            packed = reference.pack(whole, mine, checkpoint=form, device="cpu", layer=LAYER)
            for name, tensor in reference.unpack(packed).items():  # per expert: global numbers
                found[tp_rank, ep_rank, name] = tensor
    plain = checkpoint(layout, CHECKPOINT_FORMATS[0])
    for name, tensor in plain.items():
        parts = [value for (_, _, other), value in sorted(found.items(), key=lambda item: item[0][:2]) if other == name]
        assert len(parts) == layout.tp_size, f"{name} is on {len(parts)} ranks"
        axis = 1 if "down_proj" in name else 0
        assert same(torch.cat([part.view(torch.uint8) if part.dtype.itemsize == 1 else part for part in parts], axis)
                    .view(tensor.dtype), tensor)  # fmt: skip


def test_equal_shapes_are_told_apart_by_declaration_alone() -> None:
    """w13 and w31, and with 2 * I = H even transposed storage, have one shape: only the descriptor can tell."""
    plain = LayoutDescriptor(2, 8, 4, dtype=torch.bfloat16)
    forms = [replace(plain, order=order, axes=axes) for order in ("w13", "w31", "interleaved")
             for axes in ("[E,N,K]", "[E,K,N]")]  # fmt: skip
    assert {form.w13_shape for form in forms} == {(2, 8, 8)}
    contents = {expected(form)[0].view(torch.uint8).numpy().tobytes() for form in forms}
    assert len(contents) == len(forms)


@pytest.mark.parametrize("read_as", [FUSED, FUSED_TRANSPOSED, GPT_OSS], ids=lambda form: form.name)
@pytest.mark.parametrize("written_as", [FUSED, FUSED_TRANSPOSED, GPT_OSS], ids=lambda form: form.name)
def test_a_fused_tensor_is_read_as_its_declared_format(written_as: CheckpointFormat, read_as: CheckpointFormat) -> None:
    """The fused formats share their names and here, with I = H / 2, the shapes of gate_up: the declaration decides."""
    layout = LayoutDescriptor(2, 8, 4, dtype=torch.bfloat16)
    tensors = checkpoint(layout, written_as)
    down = f"{LAYER}.experts.down_proj"
    if written_as.axes != read_as.axes:
        tensors[down] = tensors[down].transpose(1, 2).contiguous()  # its shape would give it away
    packed = ReferenceMoELayout().pack(tensors, layout, checkpoint=read_as, layer=LAYER)
    assert same(packed.w13_weight, expected(layout)[0]) is (written_as is read_as)
    assert same(packed.w2_weight, expected(layout)[1])
