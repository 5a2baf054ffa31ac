"""The proof that boxes cover a grid exactly: every element by one box, none by two, none by none.

Volumes alone prove nothing (a gap and an overlap of one size cancel out). Each axis is cut where boxes begin and end,
and between two cuts the boxes that span them have to cover the remaining axes exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

Ints = tuple[int, ...]
Box = tuple[Ints, Ints]  # lows and sizes, one number per axis


@dataclass(frozen=True)
class Fault:
    """Where the cover fails: `boxes` (indices) overlap at element `at`, or nothing covers it."""

    kind: Literal["gap", "overlap"]
    at: Ints
    boxes: Ints


@lru_cache(maxsize=1024)
def cover_fault(grid: Ints, boxes: tuple[Box, ...]) -> Fault | None:
    """None if `boxes` cover `grid` exactly, else the first fault. Boxes must lie inside the grid and not be empty."""
    if 0 in grid:
        return Fault("overlap", grid, tuple(range(len(boxes)))) if boxes else None
    return _check(grid, boxes, range(len(boxes)), ())


def _check(grid: Ints, boxes: tuple[Box, ...], chosen: Sequence[int], at: Ints) -> Fault | None:
    axis = len(at)
    if axis == len(grid):
        if len(chosen) == 1:
            return None
        return Fault("overlap" if chosen else "gap", at, tuple(chosen))
    spans: dict[tuple[int, int], list[int]] = {}
    for index in chosen:
        low, size = boxes[index][0][axis], boxes[index][1][axis]
        spans.setdefault((low, low + size), []).append(index)
    end = 0
    ordered = sorted(spans)
    if any(low < before for (_, before), (low, _) in pairwise(ordered)):
        cuts = sorted({0, grid[axis], *(edge for span in spans for edge in span)})
        parts = [
            (low, high, [index for span in ordered if span[0] <= low and high <= span[1] for index in spans[span]])
            for low, high in pairwise(cuts)
        ]
    else:
        parts = [(low, high, spans[low, high]) for low, high in ordered]
    for low, high, part in parts:
        if low > end:
            return Fault("gap", (*at, end, *(0,) * (len(grid) - axis - 1)), ())
        fault = _check(grid, boxes, part, (*at, low))
        if fault is not None:
            return fault
        end = high
    if end < grid[axis]:
        return Fault("gap", (*at, end, *(0,) * (len(grid) - axis - 1)), ())
    return None
