"""Moves that alternate in storage, as one: gate and up of every expert, in the order in which `w13_weight` holds them.

What a bucket then carries of them is one range of the receivers' storage, which can be received where it belongs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from hardpoint.sync.plan.packing import Landing, Move
from hardpoint.sync.plan.strides import contiguous, volume


def weave(moves: Iterable[Move]) -> Iterator[Move]:
    """`moves` in their order; each two neighbours whose boxes alternate without a gap at every landing become one."""
    before: Move | None = None
    for move in moves:
        woven = _woven(before, move) if before is not None else None
        if woven is not None:
            yield woven
            before = None
            continue
        if before is not None:
            yield before
        before = move
    if before is not None:
        yield before


def _woven(one: Move, other: Move) -> Move | None:
    if len(one.sources) < 2 or len(one.sources) != len(other.sources) or len(one.landings) != len(other.landings):
        return None
    if (one.itemsize, one.sizes, one.offset, one.strides) != (other.itemsize, other.sizes, other.offset, other.strides):
        return None
    if one.pitch != one.box_bytes:
        return None  # between boxes the bucket has a gap
    size = volume(one.sizes)
    distances = {_distance(a, b, one, size) for a, b in zip(one.landings, other.landings, strict=True)}
    if distances not in ({size}, {-size}):
        return None
    first, second = (one, other) if distances == {size} else (other, one)
    return first._replace(
        sources=tuple(chain.from_iterable(zip(first.sources, second.sources, strict=True))),
        landings=tuple(landing._replace(step=size) for landing in first.landings),
    )


def _distance(a: Landing, b: Landing, move: Move, size: int) -> int:
    """Elements from a box of `a` to that of `b`; 0 if they do not alternate."""
    same = (a.shard, a.parameter, a.strides, a.step) == (b.shard, b.parameter, b.strides, b.step)
    if not same or a.step != 2 * size or a.strides != contiguous(move.sizes):
        return 0
    return b.offset - a.offset
