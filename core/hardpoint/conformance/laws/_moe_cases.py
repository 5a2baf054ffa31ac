"""Cases and oracle of the moe_layout laws: what must be where, worked out row by row on the host.

The oracle shares no code with `hardpoint.moe`: it places each row by the words of `LayoutDescriptor`'s documentation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

import torch
from hypothesis import strategies as st

from hardpoint.conformance.failure import LawFailed
from hardpoint.moe import CHECKPOINT_FORMATS, CheckpointFormat, LayoutDescriptor, LayoutError, PackedExperts
from hardpoint.moe.descriptor import SHARDS, Axes, Order, Shard, State

if TYPE_CHECKING:
    from hardpoint.conformance.context import LawContext

LAYER = "model.layers.3.mlp"


@dataclass(frozen=True)
class Weights:
    """Experts of a layer as a trainer has them, on the host: ``gate``, ``up`` ``[E, I, H]``, ``down`` ``[E, H, I]``."""

    gate: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor

    def of(self, shard: Shard) -> torch.Tensor:
        return {"gate": self.gate, "up": self.up, "down": self.down}[shard]


@dataclass(frozen=True)
class Case:
    """One rank's layout, and independently of its expert map which experts that rank owns, in local order."""

    descriptor: LayoutDescriptor
    owned: tuple[int, ...]
    checkpoint: CheckpointFormat
    seed: int

    def __repr__(self) -> str:
        d = self.descriptor
        return (
            f"{d.order} {d.axes} {d.dtype} E={d.num_experts} H={d.hidden_size} I={d.intermediate_size} "
            f"padded={d.padded_intermediate} tp={d.tp_rank}/{d.tp_size} ep={d.ep_rank}/{d.ep_size} owned={self.owned} "
            f"state={d.w13_state}/{d.w2_state} checkpoint={self.checkpoint.name} seed={self.seed}"
        )


def weights(descriptor: LayoutDescriptor, seed: int) -> Weights:
    """Random bits: every NaN payload, infinity and denormal may occur."""
    generator = torch.Generator().manual_seed(seed)
    per, dtype = descriptor.values_per_element, descriptor.dtype
    e, h, i = descriptor.num_experts, descriptor.hidden_size, descriptor.intermediate_size

    def bits(n: int, k: int) -> torch.Tensor:
        raw = torch.randint(0, 256, (e, n, k // per * dtype.itemsize), generator=generator, dtype=torch.uint8)
        return raw.view(dtype)

    return Weights(bits(i, h), bits(i, h), bits(h, i))


def checkpoint_tensors(whole: Weights, checkpoint: CheckpointFormat, layer: str = LAYER) -> dict[str, torch.Tensor]:
    """`whole` under the names and in the layout of `checkpoint`; also right for one rank's part of the experts."""

    def turned(matrix: torch.Tensor) -> torch.Tensor:
        return (matrix.transpose(-1, -2) if checkpoint.axes == "[E,K,N]" else matrix).contiguous()

    if not checkpoint.fused:
        return {
            f"{layer}.{pattern.format(expert=expert)}": turned(whole.of(shard)[expert])
            for expert in range(whole.gate.shape[0])
            for shard, pattern in zip(SHARDS, checkpoint.patterns, strict=True)
        }
    if checkpoint.order == "interleaved":
        rows = [row for i in range(whole.gate.shape[1]) for row in (whole.gate[:, i], whole.up[:, i])]
        gate_up = torch.stack(rows, dim=1)
    else:
        gate_up = torch.cat([whole.gate, whole.up], dim=1)
    return {
        f"{layer}.{checkpoint.patterns[0]}": turned(gate_up),
        f"{layer}.{checkpoint.patterns[2]}": turned(whole.down),
    }


def own_part(whole: Weights, case: Case) -> Weights:
    """What of `whole` belongs on the case's rank, in local order."""
    d = case.descriptor
    size = d.intermediate_size // d.tp_size
    low, high, per = d.tp_rank * size, (d.tp_rank + 1) * size, d.values_per_element
    mine = list(case.owned)
    return Weights(
        whole.gate[mine][:, low:high],
        whole.up[mine][:, low:high],
        whole.down[mine][:, :, low // per : high // per],
    )


def own_tensors(whole: Weights, case: Case, checkpoint: CheckpointFormat) -> dict[str, torch.Tensor]:
    """What `unpack` must give on the case's rank."""
    part = own_part(whole, case)
    tensors = checkpoint_tensors(part, checkpoint)
    if checkpoint.fused:
        return tensors
    # Names carry global numbers; `checkpoint_tensors` numbered them in local order.
    globally = zip([expert for expert in case.owned for _ in SHARDS], tensors.values(), strict=True)
    patterns = checkpoint.patterns * len(case.owned)
    return {
        f"{LAYER}.{pattern.format(expert=expert)}": tensor
        for pattern, (expert, tensor) in zip(patterns, globally, strict=True)
    }


def expected_storage(whole: Weights, case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Contents of ``(w13_weight, w2_weight)`` on the case's rank, row by row."""
    d = case.descriptor
    part = own_part(whole, case)
    size = part.gate.shape[1]
    padded13 = d.padded_intermediate if d.padded_intermediate is not None and d.w13_state == "kernel" else size
    padded2 = d.padded_intermediate if d.padded_intermediate is not None and d.w2_state == "kernel" else size
    order = d.order if d.w13_state == "kernel" else "w13"
    experts, _, k = part.gate.shape
    item = d.dtype.itemsize
    w13 = torch.zeros((experts, 2 * padded13, k * item), dtype=torch.uint8).view(d.dtype)
    for i in range(size):
        gate_row, up_row = {"w13": (i, padded13 + i), "w31": (padded13 + i, i), "interleaved": (2 * i, 2 * i + 1)}[
            order
        ]
        _bits(w13)[:, gate_row] = _bits(part.gate)[:, i]
        _bits(w13)[:, up_row] = _bits(part.up)[:, i]
    columns = padded2 // d.values_per_element
    w2 = torch.zeros((experts, d.hidden_size, columns * item), dtype=torch.uint8).view(d.dtype)
    _bits(w2)[:, :, : part.down.shape[2]] = _bits(part.down)
    if d.axes == "[E,K,N]" and d.w13_state == "kernel":
        w13 = w13.transpose(1, 2).contiguous()
    if d.axes == "[E,K,N]" and d.w2_state == "kernel":
        w2 = w2.transpose(1, 2).contiguous()
    return w13, w2


def check_storage(context: LawContext, packed: PackedExperts, whole: Weights, case: Case, what: str) -> None:
    """Fail unless the storage is what the case's descriptor says. A private format is for its backend to know."""
    if case.descriptor.format != "dense":
        return
    w13, w2 = expected_storage(whole, case)
    context.equal(packed.w13_weight, w13, f"w13_weight {what} ({case!r})")
    context.equal(packed.w2_weight, w2, f"w2_weight {what} ({case!r})")


def check_unpacked(context: LawContext, packed: PackedExperts, whole: Weights, case: Case, what: str) -> None:
    """Fail unless unpacking gives this rank's part of `whole` bit by bit under its names."""
    unpacked = context.backend.moe_layout.unpack(packed, case.checkpoint)
    expected = own_tensors(whole, case, case.checkpoint)
    context.check(
        set(unpacked) == set(expected),
        f"unpack {what} must give {sorted(expected)}, gave {sorted(unpacked)} ({case!r})",
    )
    for name, tensor in expected.items():
        context.equal(unpacked[name], tensor, f"{name} {what} ({case!r})")


def scribble(context: LawContext, packed: PackedExperts) -> None:
    """Fill dense storage with bytes that no law writes on purpose, so that an element left out shows."""
    if packed.descriptor.format != "dense":
        return
    for tensor in (packed.w13_weight, packed.w2_weight):
        _bits(tensor).copy_(context.to_device(torch.full(tensor.shape, 0x5A, dtype=_bits(tensor).dtype)))


class Cases:
    """Draws cases for one law run: the layout that the backend's kernels read, and each dense one that it offers.

    A dense layout that is refused with LayoutError for a small layer of unlike sizes is not offered, said in a note;
    one that is offered has to work for all sizes. The backend's own layout has to work always.
    """

    def __init__(self, context: LawContext) -> None:
        self._context = context
        self._dtypes = [dtype for dtype in _DTYPES if _holds(context, dtype)]
        layouts = [(order, axes, padded) for order in get_args(Order) for axes in get_args(Axes) for padded in (0, 1)]
        self._layouts = [layout for layout in layouts if self._offered(*layout)]

    def draw(self, *, ambiguous: bool = False) -> st.SearchStrategy[Case]:
        """Cases in any mixture of states. `ambiguous`: transposed, one of the storages keeps its shape."""

        @st.composite
        def one(draw: Any) -> Case:
            dtype = draw(st.sampled_from(self._dtypes))
            per = 2 if dtype == torch.uint8 else 1
            experts, tp_size = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 3]))
            size = draw(st.integers(1, 3)) * per
            hidden = draw(st.sampled_from([size, 2 * size])) if ambiguous else draw(st.integers(1, 5)) * per
            if draw(st.booleans()):
                ep_size = draw(st.integers(1, experts))
                ep_rank = draw(st.integers(0, ep_size - 1))
                # Linear placement: consecutive experts, one more on each of the first ranks while there is a remainder.
                counts = [experts // ep_size + (rank < experts % ep_size) for rank in range(ep_size)]
                owned = tuple(range(sum(counts[:ep_rank]), sum(counts[: ep_rank + 1])))
                expert_map = None
            else:
                ep_size, ep_rank = 2, draw(st.integers(0, 1))
                owned = tuple(draw(st.permutations(range(experts))))[: draw(st.integers(1, experts))]
                expert_map = tuple(owned.index(expert) if expert in owned else -1 for expert in range(experts))
            model = LayoutDescriptor(
                experts,
                hidden,
                size * tp_size,
                dtype=dtype,
                values_per_element=per,
                tp_rank=draw(st.integers(0, tp_size - 1)),
                tp_size=tp_size,
                ep_rank=ep_rank,
                ep_size=ep_size,
                expert_map=expert_map,
            ).in_state("model")
            descriptor = self._choose(draw, model)
            state = st.sampled_from(["kernel", "model"])
            descriptor = replace(descriptor, w13_state=draw(state), w2_state=draw(state))
            return Case(descriptor, owned, draw(st.sampled_from(CHECKPOINT_FORMATS)), draw(st.integers(0, 2**16)))

        return one()

    def alike(self) -> list[Case]:
        """Every layout without padding in every mixture of states, once with 2 * I_tp = H and once with I_tp = H."""
        layouts = [(order, axes) for order, axes, padded in self._layouts if not padded]
        models = [LayoutDescriptor(2, hidden, size, dtype=torch.float32) for hidden, size in ((4, 2), (3, 3))]
        return [
            Case(
                replace(model, order=order, axes=axes, w13_state=w13, w2_state=w2),
                (0, 1),
                CHECKPOINT_FORMATS[0],
                number,
            )
            for number, model in enumerate(models)
            for order, axes in layouts
            for w13 in get_args(State)
            for w2 in get_args(State)
        ]

    def other_layout(self, case: Case) -> st.SearchStrategy[Case]:
        """The same rank and weights in another layout and state."""

        @st.composite
        def one(draw: Any) -> Case:
            descriptor = self._choose(draw, case.descriptor)
            state = st.sampled_from(["model", "kernel"])
            return replace(case, descriptor=replace(descriptor, w13_state=draw(state), w2_state=draw(state)))

        return one()

    def pairs(self) -> st.SearchStrategy[tuple[Case, Case]]:
        """The same rank and weights in two layouts and states."""
        return self.draw().flatmap(lambda case: self.other_layout(case).map(lambda other: (case, other)))

    def _choose(self, draw: Any, model: LayoutDescriptor) -> LayoutDescriptor:
        own = self._context.backend.moe_layout.kernel_layout(model)
        if not self._layouts or draw(st.integers(0, 3)) == 0:
            return own
        order, axes, padded = draw(st.sampled_from(self._layouts))
        size = model.intermediate_size // model.tp_size
        wide = size + model.values_per_element * draw(st.integers(1, 2)) if padded else None
        return replace(model, order=order, axes=axes, padded_intermediate=wide, w13_state="kernel", w2_state="kernel")

    def _offered(self, order: Order, axes: Axes, padded: int) -> bool:
        descriptor = LayoutDescriptor(
            1, 7, 5, dtype=torch.float32, order=order, axes=axes, padded_intermediate=6 if padded else None
        )
        case = Case(descriptor, (0,), CHECKPOINT_FORMATS[0], 0)
        tensors = checkpoint_tensors(weights(descriptor, 0), case.checkpoint)
        try:
            self._context.backend.moe_layout.pack(tensors, descriptor, device=self._context.device, layer=LAYER)
        except LayoutError as error:
            self._context.note(f"layout {order} {axes}{' padded' if padded else ''} is not offered: {error}")
            return False
        return True


_DTYPES = (torch.bfloat16, torch.float32, torch.float16, torch.uint8, torch.float8_e4m3fn)


def _holds(context: LawContext, dtype: torch.dtype) -> bool:
    """Whether the device can hold the dtype at all; fp8 and int4 bytes are moved, never computed with."""
    try:
        context.to_device(torch.zeros(2, dtype=torch.uint8 if dtype.itemsize == 1 else dtype).view(dtype))
    except LawFailed:
        raise
    except Exception as error:  # noqa: BLE001 - any refusal counts, and the report says which
        context.note(f"{dtype} is left out, the device does not hold it: {type(error).__name__}: {error}")
        return False
    return True


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])
