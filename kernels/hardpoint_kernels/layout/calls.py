"""From boxes to launches: tables on the device, made once, and the few kernel calls that go over them.

Contracts. `copy_calls`: after all calls have run, every bit of every source is in its target and nothing else has
changed; sources and targets have one shape, one integer dtype (1, 2, 4 or 8 bytes) and one device, and no target
overlaps another box. `digest_calls`: after all calls have run, `sums` has grown by what the boxes contribute to the
digest of `reference.digest_sums`; running them twice adds twice. Both read addresses when they are made: the
tensors must stay alive and in place; a `Call` keeps them alive.

Floors: a copy moves each byte twice through device memory, a digest once. `programs` bounds how many multiprocessors a
call takes, so that a collective beside it keeps the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch

from hardpoint_kernels.layout._copy_kernel import copy_rows, copy_turned
from hardpoint_kernels.layout._digest_kernel import digest_rows
from hardpoint_kernels.layout.box import DIMENSIONS, Walk, copy_walks, read_walks

CHUNK_BITS = 18  # words of a chunk, as a power of two
_COLUMNS = 16
_TILE_BYTES = 32768
_DIGEST_WORDS = 4096
_TURNED = (64, 64)  # elements along the target's storage and along the source's


@dataclass(frozen=True)
class Call:
    """One kernel launch; `kept` are the tensors whose addresses are in its table."""

    kernel: Any
    args: tuple[Any, ...]
    constants: dict[str, Any]
    grid: tuple[int, ...]
    kept: tuple[torch.Tensor, ...] = field(repr=False, default=())

    def __call__(self) -> None:
        """Launch it through Triton itself, on the current device and stream."""
        self.kernel[self.grid](*self.args, **self.constants)


def copy_calls(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]], *, programs: int) -> list[Call]:
    """Launches that copy every ``(target, source)``.

    Raises:
        ValueError: shapes, dtypes or devices of a pair differ, or a dtype is not an integer.
    """
    kept = tuple(tensor for pair in pairs for tensor in pair)
    rows: list[Walk] = []
    turned: list[Walk] = []
    for target, source in zip(kept[::2], kept[1::2], strict=True):
        _check(target, source)
        for walk in copy_walks(target, source):
            (turned if _is_turned(walk) else rows).append(walk)
    if not kept:
        return []
    device = kept[0].device
    calls = []
    for (unit, dense), walks in _grouped(rows, lambda walk: (walk.unit, walk.dense)):
        block = _TILE_BYTES // max(unit, 8) // (1 if dense else 2)
        tables = _tables([(_row(walk), -(-walk.units // block)) for walk in walks], device)
        constants = {"UNIT": unit, "DENSE": dense, "BLOCK": block, "num_warps": 8}
        calls.append(Call(copy_rows, tables, constants, (min(programs, tables[2]),), kept))
    for key, walks in _grouped([_Turned.of(walk) for walk in turned], lambda one: one.form):
        item, source_unit, target_unit, vector = key
        tables = _tables([one.row() for one in walks], device)
        constants = {"ITEM": item, "SOURCE_UNIT": source_unit, "TARGET_UNIT": target_unit, "VECTOR": vector}
        constants |= {"ROWS": _TURNED[0], "COLUMNS": _TURNED[1], "num_warps": 4}
        calls.append(Call(copy_turned, tables, constants, (min(2 * programs, tables[2]),), kept))
    return calls


def digest_calls(
    boxes: Sequence[tuple[int, torch.Tensor]],
    sums: torch.Tensor,
    nbytes: int,
    multipliers: torch.Tensor,
    *,
    programs: int,
) -> list[Call]:
    """Launches that add what `boxes`, ``(byte in the bucket, view)``, contribute to `sums` of a bucket of `nbytes`.

    Raises:
        ValueError: a box does not begin at a whole word of the bucket.
    """
    walks = []
    for at, box in boxes:
        if at % 4 or box.dtype.is_floating_point:
            raise ValueError(f"a box must be of an integer dtype and begin at a multiple of 4, found {box.dtype}, {at}")
        walks += list(read_walks(at, box))
    calls = []
    whole, last = nbytes // 4, sums.numel() - 1
    for (unit, dense), of in _grouped(walks, lambda walk: (walk.unit, walk.dense)):
        block = _DIGEST_WORDS // max(1, unit // 4)
        tables = _tables([(_row(walk), -(-walk.units // block)) for walk in of], sums.device)
        constants = {"UNIT": unit, "DENSE": dense, "CHUNK": CHUNK_BITS, "BLOCK": block, "num_warps": 4}
        args = (*tables, multipliers, sums, whole, last)
        kept = tuple(box for _, box in boxes)
        calls.append(Call(digest_rows, args, constants, (min(programs, tables[2]),), kept))
    return calls


def _check(target: torch.Tensor, source: torch.Tensor) -> None:
    if target.shape != source.shape or target.dtype != source.dtype or target.device != source.device:
        raise ValueError(
            f"a box is copied into one of its own shape, dtype and device, found {tuple(source.shape)} {source.dtype} "
            f"on {source.device} into {tuple(target.shape)} {target.dtype} on {target.device}"
        )
    if source.dtype.is_floating_point or source.dtype.is_complex:
        raise ValueError(f"boxes are copied as integer words of the same width, found {source.dtype}")


def _grouped(items: Sequence[Any], key: Callable[[Any], tuple[Any, ...]]) -> Iterable[tuple[Any, list[Any]]]:
    return [(form, list(group)) for form, group in groupby(sorted(items, key=key), key)]


def _is_turned(walk: Walk) -> bool:
    """Whether the two storages run along different dimensions, both long enough to be worth tiles."""
    row, column = _axes(walk)
    return row != column and walk.sizes[row] >= 8 and walk.sizes[column] >= 8


def _axes(walk: Walk) -> tuple[int, int]:
    """The dimension with the target's smallest stride, and with the source's."""
    dims = range(len(walk.sizes))
    return min(dims, key=lambda d: walk.target_strides[d]), min(dims, key=lambda d: walk.source_strides[d])


def _row(walk: Walk) -> list[int]:
    lack = DIMENSIONS - len(walk.sizes)
    sizes = (*(1,) * lack, *walk.sizes)
    strides = (*(0,) * lack, *walk.source_strides, *(0,) * lack, *walk.target_strides)
    return [walk.source, walk.target, *sizes[1:], *strides, walk.units]


@dataclass(frozen=True)
class _Turned:
    walk: Walk
    row_axis: int
    column_axis: int

    @classmethod
    def of(cls, walk: Walk) -> _Turned:
        return cls(walk, *_axes(walk))

    @property
    def form(self) -> tuple[int, bool, bool, int]:
        walk, row, column = self.walk, self.row_axis, self.column_axis
        source_unit, target_unit = walk.source_strides[column] == 1, walk.target_strides[row] == 1
        numbers = [
            *(stride for dim, stride in enumerate(walk.source_strides) if dim != column or not source_unit),
            *(stride for dim, stride in enumerate(walk.target_strides) if dim != row or not target_unit),
            walk.sizes[row],
            walk.sizes[column],
        ]
        vector = max(1, 16 // walk.unit)
        while any(number % vector for number in numbers) or (walk.source | walk.target) % (vector * walk.unit):
            vector //= 2
        return walk.unit, source_unit, target_unit, vector

    def row(self) -> tuple[list[int], int]:
        walk, row, column = self.walk, self.row_axis, self.column_axis
        batch = [dim for dim in range(len(walk.sizes)) if dim not in (row, column)]
        sizes = [1] * (2 - len(batch)) + [walk.sizes[dim] for dim in batch]

        def strides(of: tuple[int, ...]) -> list[int]:
            return [0] * (2 - len(batch)) + [of[dim] for dim in (*batch, row, column)]

        down, across = -(-walk.sizes[row] // _TURNED[0]), -(-walk.sizes[column] // _TURNED[1])
        head = [walk.source, walk.target, walk.sizes[row], walk.sizes[column], sizes[1]]
        return [*head, *strides(walk.source_strides), *strides(walk.target_strides), down, -1, across], (
            down * across * sizes[0] * sizes[1]
        )


def _tables(rows: Sequence[tuple[list[int], int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor, int]:
    """The table, the walk of each tile, and the number of tiles."""
    values: list[list[int]] = []
    first = 0
    for row, tiles in rows:
        filled = row + [0] * (_COLUMNS - len(row))
        filled[14] = first
        values.append(filled)
        first += tiles
    counts = torch.tensor([tiles for _, tiles in rows])
    walk_of = torch.repeat_interleave(torch.arange(len(rows), dtype=torch.int32), counts)
    return torch.tensor(values, dtype=torch.int64).to(device), walk_of.to(device), first
