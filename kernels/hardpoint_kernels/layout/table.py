"""Tables that the kernels go by: 16 int64 columns, a row for each walk, and the walk of each tile.

Runs (`copy_dense`, `copy_rows`, `digest_rows`): 0 source address, 1 target address, 2..3 sizes of the second and third
dimension, 4 units of a run, 5..8 source strides, 9..12 target strides, 13 runs, 14 first tile, 15 tiles along a run.
Turned (`copy_turned`): 0 source, 1 target, 2 rows, 3 columns, 4 inner batch size, 5..8 source strides of (batch, inner
batch, row, column), 9..12 target strides, 13 tiles along the rows, 14 first tile, 15 tiles along the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hardpoint_kernels.layout.box import DIMENSIONS, Walk

_COLUMNS = 16


def run_row(walk: Walk, rows: int, columns: int) -> tuple[list[int], int]:
    """A walk as runs, and its tiles of `rows` runs by `columns` units."""
    lack = DIMENSIONS - len(walk.sizes)
    n0, n1, n2, n3 = (*(1,) * lack, *walk.sizes)
    strides = (*(0,) * lack, *walk.source_strides, *(0,) * lack, *walk.target_strides)
    runs, across = n0 * n1 * n2, -(-n3 // columns)
    return [walk.source, walk.target, n1, n2, n3, *strides, runs, -1, across], -(-runs // rows) * across


@dataclass(frozen=True)
class Turned:
    """A walk whose two storages run along different dimensions: `row` along the target's, `column` the source's."""

    walk: Walk
    row: int
    column: int

    @property
    def form(self) -> tuple[int, bool, bool, int, bool]:
        """Bytes of an element, whether the source's and the target's inner strides are 1, the vector length, and
        whether offsets are narrow."""
        walk = self.walk
        source_unit, target_unit = walk.source_strides[self.column] == 1, walk.target_strides[self.row] == 1
        numbers = [
            *(stride for dim, stride in enumerate(walk.source_strides) if dim != self.column or not source_unit),
            *(stride for dim, stride in enumerate(walk.target_strides) if dim != self.row or not target_unit),
            walk.sizes[self.row],
            walk.sizes[self.column],
        ]
        vector = max(1, 16 // walk.unit)
        while any(number % vector for number in numbers) or (walk.source | walk.target) % (vector * walk.unit):
            vector //= 2
        return walk.unit, source_unit, target_unit, vector, walk.narrow

    def table_row(self, rows: int, columns: int) -> tuple[list[int], int]:
        """The row, and the tiles of `rows` by `columns` elements."""
        walk = self.walk
        batch = [dim for dim in range(len(walk.sizes)) if dim not in (self.row, self.column)]
        sizes = [1] * (2 - len(batch)) + [walk.sizes[dim] for dim in batch]

        def strides(of: tuple[int, ...]) -> list[int]:
            return [0] * (2 - len(batch)) + [of[dim] for dim in (*batch, self.row, self.column)]

        down, across = -(-walk.sizes[self.row] // rows), -(-walk.sizes[self.column] // columns)
        head = [walk.source, walk.target, walk.sizes[self.row], walk.sizes[self.column], sizes[1]]
        filled = [*head, *strides(walk.source_strides), *strides(walk.target_strides), down, -1, across]
        return filled, down * across * sizes[0] * sizes[1]


def tables(rows: Sequence[tuple[list[int], int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor, int]:
    """The table, the walk of each tile (int32), and the number of tiles."""
    values: list[list[int]] = []
    first = 0
    for row, tiles in rows:
        values.append([*row[:14], first, *row[15:]])
        first += tiles
    assert all(len(row) == _COLUMNS for row in values)
    counts = torch.tensor([tiles for _, tiles in rows])
    walk_of = torch.repeat_interleave(torch.arange(len(rows), dtype=torch.int32), counts)
    return torch.tensor(values, dtype=torch.int64).to(device), walk_of.to(device), first
