"""`Rule`: one parameter of the whole model, before ranks cut it; and the dense kinds of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

from hardpoint.errors import SyncError
from hardpoint.sync.plan.coordinates import Coordinates
from hardpoint.sync.plan.cover import Box
from hardpoint.sync.plan.destination import Destination, Part
from hardpoint.sync.plan.strides import Ints, contiguous

Place = int | Literal["first", "last", "every"]


@runtime_checkable
class Rule(Protocol):
    """Says what a receiver holds of some parameters.

    Attributes:
        place: the layer's index, or the pipeline stages that have it: the first, the last, or every one.
        by_experts: whether expert parallel coordinates matter. Ranks that differ in nothing else share what does not.
    """

    by_experts: ClassVar[bool]

    @property
    def place(self) -> Place: ...

    def destinations(self, at: Coordinates) -> Iterator[Destination]:
        """What the receiver at `at` holds, provided that its pipeline stage has the rule's place.

        Raises:
            SyncError: the sizes cannot be cut for these coordinates.
        """
        ...


@dataclass(frozen=True)
class Segment:
    """Rows (or columns) of a checkpoint tensor that are shared out among ranks as one unit.

    Attributes:
        tensor: name in the checkpoint.
        shape: of the whole tensor.
        start, size: the section along the dimension that is cut; size None for all of it.
        at_most: slices that the section can have. None for one per tensor parallel rank, always; 1 for replicated; the
            number of heads where more ranks than heads share one among neighbours (key and value).
    """

    tensor: str
    shape: Ints
    start: int = 0
    size: int | None = None
    at_most: int | None = None

    def slice_for(self, dim: int, at: Coordinates) -> tuple[int, int]:
        """First row and number of rows for the receiver at `at`."""
        size = self.shape[dim] - self.start if self.size is None else self.size
        if self.start + size > self.shape[dim]:
            raise SyncError(
                f"{self.tensor} {list(self.shape)} has no rows {self.start} to {self.start + size} in dimension {dim}."
            )
        shards = at.tp_size if self.at_most is None else min(at.tp_size, self.at_most)
        if size % shards or at.tp_size % shards:
            raise SyncError(
                f"{size} rows of {self.tensor} (dimension {dim}) cannot be shared out as {shards} equal slices among "
                f"{at.tp_size} tensor-parallel ranks."
            )
        each = size // shards
        return self.start + at.tp_rank // (at.tp_size // shards) * each, each


@dataclass(frozen=True)
class Dense:
    """A parameter made of segments, one after the other along `dim`; all other dimensions are those of the tensors.

    Attributes:
        parameter: name in the serving model.
        segments: in storage order: q, k, v of a qkv_proj; gate and up; one replicated segment for a norm.
        dtype: torch name.
        dim: 0 cuts rows (column parallel), 1 cuts columns (row parallel).
        place: see `Rule`.
    """

    by_experts: ClassVar[bool] = False

    parameter: str
    segments: tuple[Segment, ...]
    dtype: str = "bfloat16"
    dim: int = 0
    place: Place = "every"

    def destinations(self, at: Coordinates) -> Iterator[Destination]:
        """See `Rule.destinations`."""
        others = {_without(segment.shape, self.dim) for segment in self.segments}
        if len(others) != 1:
            raise SyncError(
                f"The tensors of {self.parameter} must agree in every dimension but {self.dim}, found "
                f"{', '.join(f'{s.tensor} {list(s.shape)}' for s in self.segments)}."
            )
        parts, low = [], 0
        for segment in self.segments:
            first, size = segment.slice_for(self.dim, at) if segment.shape else (0, 1)
            parts.append(_part(segment, self.dim, first, low, size))
            low += size
        model = self.segments[0].shape
        shape = (*model[: self.dim], low, *model[self.dim + 1 :]) if model else ()
        grid = shape or (1,)
        full = tuple(part for part in parts if 0 not in part.sizes)
        yield Destination(self.parameter, self.dtype, shape, grid, contiguous(grid), full)


@dataclass(frozen=True)
class Vocab:
    """Embedding or lm_head: rows padded to a multiple, then cut; rows past the vocabulary are zero (vLLM's layout).

    Attributes:
        tensor: checkpoint name; for a tied lm_head that of the embedding.
        shape: ``[vocab, hidden]``.
        multiple: that the padded vocabulary is a multiple of, before it is cut.
        tied: the parameter is the embedding's own storage wherever one stage has both, and a copy elsewhere.
    """

    by_experts: ClassVar[bool] = False

    parameter: str
    tensor: str
    shape: Ints
    dtype: str = "bfloat16"
    multiple: int = 64
    place: Place = "first"
    tied: bool = False

    def destinations(self, at: Coordinates) -> Iterator[Destination]:
        """See `Rule.destinations`."""
        if self.tied and at.pp_size == 1:
            return
        vocab, *rest = self.shape
        padded = math.lcm(self.multiple, at.tp_size)
        rows = -(-vocab // padded) * padded // at.tp_size
        first = at.tp_rank * rows
        here = max(0, min(rows, vocab - first))
        shape = (rows, *rest)
        parts: tuple[Part, ...] = ()
        if here:
            parts = (_part(Segment(self.tensor, self.shape), 0, first, 0, here),)
        zeros: tuple[Box, ...] = ()
        if here < rows:
            zeros = (((here, *(0,) * len(rest)), (rows - here, *rest)),)
        yield Destination(self.parameter, self.dtype, shape, shape, contiguous(shape), parts, zeros)


def replicated(parameter: str, tensor: str, shape: Sequence[int], dtype: str, place: Place = "every") -> Dense:
    """A parameter or buffer that every rank holds whole: norms, routers, biases of row-parallel layers, counters."""
    return Dense(parameter, (Segment(tensor, tuple(shape), at_most=1),), dtype, 0, place)


def _part(segment: Segment, dim: int, first: int, low: int, size: int) -> Part:
    shape = segment.shape or (1,)
    strides = contiguous(shape)
    lows = (0,) * dim + (low,) + (0,) * (len(shape) - dim - 1)
    sizes = (*shape[:dim], size, *shape[dim + 1 :])
    return Part((segment.tensor,), segment.shape, "", first * strides[dim], strides, lows, sizes)


def _without(shape: Ints, dim: int) -> Ints:
    return (*shape[:dim], *shape[dim + 1 :])
