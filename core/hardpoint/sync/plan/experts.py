"""`Experts`: the expert weights of one layer, from any checkpoint format into any declared kernel layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

from hardpoint.errors import SyncError
from hardpoint.moe import PER_EXPERT, CheckpointFormat, LayoutDescriptor
from hardpoint.moe.descriptor import SHARDS, Axes, Order, Shard
from hardpoint.sync.dtypes import dtype_name
from hardpoint.sync.plan.coordinates import Coordinates
from hardpoint.sync.plan.cover import Box
from hardpoint.sync.plan.destination import Destination, Part
from hardpoint.sync.plan.rule import Place
from hardpoint.sync.plan.strides import Ints

Placement = Callable[[int, int, int], tuple[int, ...]]


@dataclass(frozen=True)
class Experts:
    """`w13_weight` and `w2_weight` of one layer.

    Attributes:
        layer: module name in the checkpoint, what stands before ``experts``.
        layout: of the kernels that read them, for one rank of one; coordinates are put in per receiver. States may be
            declared for each storage: see `LayoutDescriptor`.
        checkpoint: format that the trainer sends.
        expert_maps: for each `ep_rank` the local index of each global expert; None for vLLM's linear placement.
        cut_with_experts: whether `I` is cut by tensor parallelism as well when experts are spread out. vLLM gives each
            expert whole to one rank: False.
        w13, w2: names of the parameters in the serving model.
        place: see `Rule`.
    """

    by_experts: ClassVar[bool] = True

    layer: str
    layout: LayoutDescriptor
    checkpoint: CheckpointFormat = PER_EXPERT
    expert_maps: tuple[tuple[int, ...], ...] | None = None
    cut_with_experts: bool = False
    w13: str = ""
    w2: str = ""
    place: Place = "every"

    def destinations(self, at: Coordinates) -> Iterator[Destination]:
        """See `Rule.destinations`."""
        if self.layout.format != "dense":
            raise SyncError(
                f"The experts of {self.layer} are in the private layout {self.layout.format!r}, a plan needs 'dense'."
            )
        template = _template(self.placed(at), self.checkpoint)
        names = (self.w13 or f"{self.layer}.experts.w13_weight", self.w2 or f"{self.layer}.experts.w2_weight")
        for name, side in zip(names, template, strict=True):
            parts = tuple(
                Part(_names(self.checkpoint, self.layer, shard, experts), shape, form, offset, strides, lows, sizes)
                for shard, experts, shape, form, offset, strides, lows, sizes in side.parts
            )
            yield Destination(name, side.dtype, side.shape, side.grid, side.strides, parts, side.zeros)

    def placed(self, at: Coordinates) -> LayoutDescriptor:
        """The descriptor of the receiver at `at`."""
        expert_map = None
        if self.expert_maps is not None:
            if len(self.expert_maps) != at.ep_size:
                raise SyncError(
                    f"The experts of {self.layer} are placed on {len(self.expert_maps)} expert-parallel ranks, the "
                    f"receivers have ep_size {at.ep_size}."
                )
            expert_map = self.expert_maps[at.ep_rank]
        whole = at.ep_size > 1 and not self.cut_with_experts
        return replace(
            self.layout,
            tp_rank=0 if whole else at.tp_rank,
            tp_size=1 if whole else at.tp_size,
            ep_rank=at.ep_rank,
            ep_size=at.ep_size,
            expert_map=expert_map,
        )


_Row = tuple[Shard, Ints, Ints, str, int, Ints, Ints, Ints]  # shard, experts (none: all), then as in a `Part`


@lru_cache(maxsize=4096)
def _names(checkpoint: CheckpointFormat, layer: str, shard: Shard, experts: Ints) -> tuple[str, ...]:
    """One object for all ranks that hold the same experts."""
    if checkpoint.fused:
        return (checkpoint.name_of(shard, None, layer),)
    head, tail = checkpoint.name_of(shard, -1, layer).split("-1")
    return tuple([f"{head}{expert}{tail}" for expert in experts])


@dataclass(frozen=True)
class _Side:
    """One of the two storages, for any layer of the same layout."""

    dtype: str
    shape: Ints
    grid: Ints
    strides: Ints
    parts: tuple[_Row, ...]
    zeros: tuple[Box, ...]


@lru_cache(maxsize=512)
def _template(layout: LayoutDescriptor, checkpoint: CheckpointFormat) -> tuple[_Side, _Side]:
    per = layout.values_per_element
    hidden = layout.hidden_size // per
    rows, columns = layout.intermediate_per_rank, layout.intermediate_per_rank // per
    padded = layout.padded_intermediate or rows
    experts = len(layout.local_experts)
    dtype = dtype_name(layout.dtype)

    rows13 = padded if layout.w13_state == "kernel" else rows
    grid13 = (experts, 2, rows13, hidden)
    order: Order = layout.order if layout.w13_state == "kernel" else "w13"
    axes13: Axes = layout.axes if layout.w13_state == "kernel" else "[E,N,K]"
    halves = {"gate": 1 if order == "w31" else 0, "up": 0 if order == "w31" else 1}
    strides13 = _strides13(order, axes13, rows13, hidden)
    zeros13 = (((0, 0, rows, 0), (experts, 2, rows13 - rows, hidden)),) if rows13 > rows and experts else ()

    columns2 = padded // per if layout.w2_state == "kernel" else columns
    grid2 = (experts, layout.hidden_size, columns2)
    axes2: Axes = layout.axes if layout.w2_state == "kernel" else "[E,N,K]"
    step = layout.hidden_size * columns2
    strides2 = (step, columns2, 1) if axes2 == "[E,N,K]" else (step, 1, layout.hidden_size)
    zeros2 = (((0, 0, columns), (experts, layout.hidden_size, columns2 - columns)),) if columns2 > columns else ()

    parts13: list[_Row] = []
    parts2: list[_Row] = []
    form = checkpoint.name if checkpoint.fused else ""
    for owned, local, count in _runs(layout, checkpoint):
        for shard in SHARDS:
            shape, offset, (by_expert, by_n, by_k) = _in_checkpoint(layout, checkpoint, shard, owned[0])
            if shard == "down":
                box2 = (local, 0, 0), (count, layout.hidden_size, columns)
                parts2.append((shard, owned, shape, form, offset, (by_expert, by_n, by_k), *box2))
            else:
                box13 = (local, halves[shard], 0, 0), (count, 1, rows, hidden)
                parts13.append((shard, owned, shape, form, offset, (by_expert, 0, by_n, by_k), *box13))
    return (
        _Side(dtype, layout.w13_shape, grid13, strides13, tuple(parts13), zeros13),
        _Side(dtype, layout.w2_shape, grid2, strides2, tuple(parts2), zeros2 if experts else ()),
    )


def _strides13(order: Order, axes: Axes, rows: int, hidden: int) -> Ints:
    """Of the grid ``[experts, half, row, K]`` in `w13_weight`."""
    half, row = (1, 2) if order == "interleaved" else (rows, 1)  # in rows along N
    step = 2 * rows * hidden
    return (step, half * hidden, row * hidden, 1) if axes == "[E,N,K]" else (step, half, row, 2 * rows)


def _in_checkpoint(
    layout: LayoutDescriptor, checkpoint: CheckpointFormat, shard: Shard, expert: int
) -> tuple[Ints, int, tuple[int, int, int]]:
    """Shape of the tensor that holds `shard`, offset of this rank's first element, strides of (expert, N, K)."""
    per, size = layout.values_per_element, layout.intermediate_size
    first = layout.tp_rank * layout.intermediate_per_rank
    down = shard == "down"
    n, k = (layout.hidden_size, size // per) if down else (size, layout.hidden_size // per)
    row, start_n, start_k = 1, 0 if down else first, first // per if down else 0
    if checkpoint.fused and not down:
        n *= 2
        second = shard == ("gate" if checkpoint.order == "w31" else "up")
        if checkpoint.order == "interleaved":
            row, start_n = 2, 2 * start_n + second
        else:
            start_n += second * size
    by_n, by_k = (k, 1) if checkpoint.axes == "[E,N,K]" else (1, n)
    matrix = checkpoint.shape_of((n, k) if checkpoint.axes == "[E,N,K]" else (k, n))
    shape = (layout.num_experts, *matrix) if checkpoint.fused else matrix
    offset = start_n * by_n + start_k * by_k + (expert * n * k if checkpoint.fused else 0)
    return shape, offset, (n * k, row * by_n, by_k)


def _runs(layout: LayoutDescriptor, checkpoint: CheckpointFormat) -> Iterator[tuple[Ints, int, int]]:
    """``(global experts, first local index, experts in one box)``: all experts, a tensor each; or, where one tensor
    holds all, each run of consecutive ones."""
    experts = layout.local_experts
    if not checkpoint.fused:
        if experts:
            yield experts, 0, 1
        return
    start = 0
    for local in range(1, len(experts) + 1):
        if local == len(experts) or experts[local] != experts[local - 1] + 1:
            yield experts[start:local], start, local - start
            start = local
