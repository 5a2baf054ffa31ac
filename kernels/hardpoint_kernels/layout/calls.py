"""From boxes to launches: tables on the device, made once, and the few kernel calls that go over them.

Contracts. `copy_calls`: after all calls have run, every bit of every source is in its target and nothing else has
changed; sources and targets have one shape, one integer dtype (1, 2, 4 or 8 bytes) and one device, and no target
overlaps another box. `digest_calls`: after all calls have run, `sums` has grown by what the boxes contribute to
`reference.digest_sums`; running them twice adds twice. Both read addresses when they are made: tensors must stay alive
and in place; a `Call` keeps them alive.

Floors: a copy moves each byte twice through device memory, a digest once. `programs` bounds how many multiprocessors a
call takes, so that a collective beside it keeps the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch

from hardpoint_kernels.layout._copy_kernel import copy_dense, copy_rows, copy_turned
from hardpoint_kernels.layout._digest_kernel import digest_chunks, digest_rows
from hardpoint_kernels.layout.box import WIDEST, Walk, body_and_tail, copy_walks, read_walks
from hardpoint_kernels.layout.table import Turned, run_row, tables

CHUNK_BITS = 18  # words of a chunk, as a power of two
_CHUNK_BYTES = 4 << CHUNK_BITS
_LONG_RUN = 1 << 16  # bytes from which a run is a walk of its own


@dataclass(frozen=True)
class Shapes:
    """Sizes of tiles, and warps. Measured by benchmarks/weight_sync.py; any powers of two give right results."""

    dense_bytes: int = 8192
    dense_warps: int = 4
    run_bytes: int = 4096
    run_warps: int = 2
    run_slack: float = 1.4  # times the units of a run, that a tile may be wide
    turned: tuple[int, int, int] = (32, 64, 2)  # elements along the target, along the source, warps
    digest_bytes: int = 8192
    digest_warps: int = 4
    chunk_words: int = 2048
    chunk_split: int = 4


ALONE = Shapes()
# Few programs: each has more under way.
BESIDE = Shapes(dense_bytes=32768, dense_warps=8, run_bytes=16384, run_warps=8, run_slack=1.1)
_FEW = 132  # programs


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


def copy_calls(
    pairs: Iterable[tuple[torch.Tensor, torch.Tensor]], *, programs: int, shapes: Shapes | None = None
) -> list[Call]:
    """Launches that copy every ``(target, source)``.

    Raises:
        ValueError: shapes, dtypes or devices of a pair differ, or a dtype is not an integer.
    """
    shapes = shapes or (BESIDE if programs <= _FEW else ALONE)
    kept = tuple(tensor for pair in pairs for tensor in pair)
    dense: list[Walk] = []
    runs: list[Walk] = []
    turned: list[Turned] = []
    for target, source in zip(kept[::2], kept[1::2], strict=True):
        _check(target, source)
        for walk in copy_walks(target, source):
            if walk.dense:
                dense += body_and_tail(walk)
            elif (one := _turned(walk)) is not None:
                turned.append(one)
            else:
                runs.append(walk)
    if not kept:
        return []
    device = kept[0].device
    calls = []
    for (unit,), walks in _grouped(dense, lambda walk: (walk.unit,)):
        block = shapes.dense_bytes // max(unit, 8)
        made = tables([run_row(walk, 1, block) for walk in walks], device)
        constants = {"UNIT": unit, "BLOCK": block, "num_warps": shapes.dense_warps}
        calls.append(Call(copy_dense, made, constants, (min(programs, made[2]),), kept))
    for (unit, inner, narrow, rows, columns), walks in _grouped(
        runs, lambda walk: _run_form(walk, shapes.run_bytes, shapes.run_slack)
    ):
        made = tables([run_row(walk, rows, columns) for walk in walks], device)
        constants = {"UNIT": unit, "INNER": inner, "NARROW": narrow, "ROWS": rows, "COLUMNS": columns}
        constants["num_warps"] = shapes.run_warps
        calls.append(Call(copy_rows, made, constants, (min(programs, made[2]),), kept))
    high, wide, warps = shapes.turned
    for (item, source_unit, target_unit, vector, narrow), ones in _grouped(turned, lambda one: one.form):
        made = tables([one.table_row(high, wide) for one in ones], device)
        constants = {"ITEM": item, "SOURCE_UNIT": source_unit, "TARGET_UNIT": target_unit, "VECTOR": vector}
        constants |= {"NARROW": narrow, "ROWS": high, "COLUMNS": wide, "num_warps": warps}
        calls.append(Call(copy_turned, made, constants, (min(4 * programs, made[2]),), kept))
    return calls


def digest_calls(
    boxes: Sequence[tuple[int, torch.Tensor]],
    sums: torch.Tensor,
    nbytes: int,
    multipliers: torch.Tensor,
    *,
    programs: int,
    shapes: Shapes | None = None,
) -> list[Call]:
    """Launches that add what `boxes`, ``(byte in the bucket, view)``, contribute to `sums` of a bucket of `nbytes`.

    Raises:
        ValueError: a box is not of an integer dtype, or does not begin at a whole word of the bucket.
    """
    shapes = shapes or (BESIDE if programs <= _FEW else ALONE)
    kept = tuple(box for _, box in boxes)
    groups: dict[int, list[tuple[int, int]]] = {4: [], 1: []}  # chunks at once -> address and number of the first
    runs: list[Walk] = []
    dense: list[Walk] = []
    for at, box in boxes:
        if at % 4 or box.dtype.is_floating_point:
            raise ValueError(f"a box must be of an integer dtype and begin at a multiple of 4, found {box.dtype}, {at}")
        for walk in read_walks(at, box):
            for run in _long_runs(walk):
                for one in body_and_tail(run):
                    (dense if one.dense and one.unit == WIDEST else runs).append(one)
    for one in _joined(dense):
        runs += _chunks(one, groups)
    calls = []
    for count, found in groups.items():
        if found:
            tiles = len(found) * shapes.chunk_split
            made = torch.tensor(found, dtype=torch.int64).to(sums.device)
            constants = {"CHUNK": CHUNK_BITS, "GROUP": count, "SPLIT": shapes.chunk_split}
            constants |= {"BLOCK": shapes.chunk_words, "num_warps": 4}
            calls.append(
                Call(digest_chunks, (made, tiles, multipliers, sums), constants, (min(2 * programs, tiles),), kept)
            )
    for (unit, inner, narrow, rows, columns), walks in _grouped(
        runs, lambda walk: _run_form(walk, shapes.digest_bytes, shapes.run_slack)
    ):
        table, walk_of, tiles = tables([run_row(walk, rows, columns) for walk in walks], sums.device)
        args = (table, walk_of, tiles, multipliers, sums, nbytes // 4, sums.numel() - 1)
        constants = {"UNIT": unit, "INNER": inner, "NARROW": narrow, "CHUNK": CHUNK_BITS}
        constants |= {"ROWS": rows, "COLUMNS": columns, "num_warps": shapes.digest_warps}
        calls.append(Call(digest_rows, args, constants, (min(2 * programs, tiles),), kept))
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


def _turned(walk: Walk) -> Turned | None:
    """The walk as tiles, if the storages run along different dimensions, both long enough to be worth it."""
    dims = range(len(walk.sizes))
    row = min(dims, key=lambda dim: walk.target_strides[dim])
    column = min(dims, key=lambda dim: walk.source_strides[dim])
    if row == column or walk.sizes[row] < 8 or walk.sizes[column] < 8:
        return None
    return Turned(walk, row, column)


def _run_form(walk: Walk, tile_bytes: int, slack: float) -> tuple[int, bool, bool, int, int]:
    """Unit, whether runs are dense and offsets narrow, a tile's runs and units of each: as wide as wastes little."""
    most = tile_bytes // max(walk.unit, 4)
    length = walk.sizes[-1]
    widths = sorted({min(most, width) for width in (16, 64, 256, most)})
    least = min(-(-length // width) * width for width in widths)
    columns = max(width for width in widths if -(-length // width) * width <= slack * least)
    rows = most // columns
    while (
        rows > 1 and rows * length * walk.unit > _CHUNK_BYTES // 2
    ):  # a tile is digested as part of two chunks at most
        rows //= 2
    inner = walk.source_strides[-1] == 1 and walk.target_strides[-1] == 1
    return walk.unit, inner, walk.narrow, rows, columns


def _long_runs(walk: Walk) -> Iterator[Walk]:
    """Runs that are long enough one by one: a tile of several would be wider than a chunk."""
    length = walk.sizes[-1] * walk.unit
    if walk.dense or length < _LONG_RUN:
        yield walk
        return
    one = walk._replace(
        sizes=walk.sizes[-1:], source_strides=walk.source_strides[-1:], target_strides=walk.target_strides[-1:]
    )
    starts = [(walk.source, walk.target)]
    for size, ours, theirs in zip(walk.sizes[:-1], walk.source_strides, walk.target_strides, strict=False):
        starts = [
            (source + i * ours * walk.unit, target + i * theirs * walk.unit)
            for source, target in starts
            for i in range(size)
        ]
    for source, target in starts:
        yield one._replace(source=source, target=target)


def _joined(walks: Sequence[Walk]) -> Iterator[Walk]:
    """Dense walks of widest units; those that go on where another ends, in memory and in the bucket, as one."""
    current: Walk | None = None
    for walk in sorted(walks, key=lambda one: one.target):
        if current is not None:
            length = current.units * WIDEST
            if (walk.source, walk.target) == (current.source + length, current.target + length):
                current = current._replace(sizes=(current.units + walk.units,))
                continue
            yield current
        current = walk
    if current is not None:
        yield current


def _chunks(walk: Walk, groups: dict[int, list[tuple[int, int]]]) -> list[Walk]:
    """Put whole chunks of a dense walk into `groups`; what is left at its ends."""
    end = walk.target + walk.units * WIDEST
    first, last = -(-walk.target // _CHUNK_BYTES), end // _CHUNK_BYTES
    if last <= first:
        return [walk]
    chunk = first
    while chunk < last:
        count = 4 if last - chunk >= 4 else 1
        groups[count].append((walk.source + chunk * _CHUNK_BYTES - walk.target, chunk))
        chunk += count
    found = []
    for start, stop in ((walk.target, first * _CHUNK_BYTES), (last * _CHUNK_BYTES, end)):
        if stop > start:
            source = walk.source + start - walk.target
            found.append(walk._replace(source=source, target=start, sizes=((stop - start) // WIDEST,)))
    return found
