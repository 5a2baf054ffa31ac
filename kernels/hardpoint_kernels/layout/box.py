"""Strided boxes for the kernels: the same walk in fewer dimensions, in the widest words that strides allow.

A box is a torch view of an integer dtype. A `Walk` is one copy between two of them (or the reading of one), counted in
units of 1 to 16 bytes, with at most four dimensions; longer ones are cut into several.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import torch

Ints = tuple[int, ...]
WIDEST = 16  # bytes that one thread loads at once
DIMENSIONS = 4
_MARGIN = 1 << 20  # units that a tile may reach over the end before they are masked


class Walk(NamedTuple):
    """Addresses are bytes; sizes and strides are units of `unit` bytes.

    `source` and `target` are the two sides; a walk that only reads has its place in the bucket as target, packed.
    """

    source: int
    target: int
    unit: int
    sizes: Ints
    source_strides: Ints
    target_strides: Ints

    @property
    def units(self) -> int:
        found = 1
        for size in self.sizes:
            found *= size
        return found

    @property
    def narrow(self) -> bool:
        """No offset on either side, in words, needs more than 31 bits."""
        words = max(1, self.unit // 4)
        reach = [
            sum((size - 1) * stride for size, stride in zip(self.sizes, strides, strict=True)) + 1
            for strides in (self.source_strides, self.target_strides)
        ]
        return (max(reach) + _MARGIN) * words < 1 << 31

    @property
    def dense(self) -> bool:
        """One range on both sides."""
        return len(self.sizes) == 1 and self.source_strides == (1,) and self.target_strides == (1,)


def copy_walks(target: torch.Tensor, source: torch.Tensor) -> Iterator[Walk]:
    """The copy of `source` into `target`, of one shape and dtype."""
    return _walks(
        source.data_ptr(), target.data_ptr(), source.element_size(), source.shape, source.stride(), target.stride()
    )


def read_walks(at: int, source: torch.Tensor) -> Iterator[Walk]:
    """The reading of `source`, which lies row-major from byte `at` of a bucket on."""
    return _walks(source.data_ptr(), at, source.element_size(), source.shape, source.stride(), _packed(source.shape))


def body_and_tail(walk: Walk) -> Iterator[Walk]:
    """A dense walk whose length alone keeps it from the widest units, as those and the rest; any other as it is."""
    length = walk.units * walk.unit
    body = length // WIDEST * WIDEST
    if not walk.dense or walk.unit == WIDEST or not body or (walk.source | walk.target) % WIDEST:
        yield walk
        return
    yield walk._replace(unit=WIDEST, sizes=(body // WIDEST,))
    yield walk._replace(source=walk.source + body, target=walk.target + body, sizes=((length - body) // walk.unit,))


def merged(sizes: Ints, source: Ints, target: Ints) -> tuple[Ints, Ints, Ints]:
    """As few dimensions as it takes, the target's widest stride first."""
    dims = sorted(
        (dim for dim in zip(sizes, source, target, strict=True) if dim[0] != 1), key=lambda dim: (-dim[2], -dim[1])
    )
    found: list[tuple[int, int, int]] = []
    for size, one, other in dims:
        if found and found[-1][1] == one * size and found[-1][2] == other * size:
            found[-1] = (found[-1][0] * size, one, other)
        else:
            found.append((size, one, other))
    if not found:
        return (1,), (1,), (1,)
    return tuple(f[0] for f in found), tuple(f[1] for f in found), tuple(f[2] for f in found)


def _walks(
    source: int, target: int, itemsize: int, shape: torch.Size, source_strides: Ints, target_strides: Ints
) -> Iterator[Walk]:
    if 0 in shape:
        return
    sizes, ours, theirs = merged(tuple(shape), source_strides, target_strides)
    outer = len(sizes) - DIMENSIONS
    for corner in product(*(range(size) for size in sizes[: max(0, outer)])):
        one = source + itemsize * sum(i * stride for i, stride in zip(corner, ours, strict=False))
        other = target + itemsize * sum(i * stride for i, stride in zip(corner, theirs, strict=False))
        cut = max(0, outer)
        yield _widest(one, other, itemsize, sizes[cut:], ours[cut:], theirs[cut:])


def _widest(source: int, target: int, itemsize: int, sizes: Ints, ours: Ints, theirs: Ints) -> Walk:
    if ours[-1] != 1 or theirs[-1] != 1:
        return Walk(source, target, itemsize, sizes, ours, theirs)
    unit = WIDEST
    others = [itemsize * stride for stride in (*ours[:-1], *theirs[:-1])]
    while any(number % unit for number in (source, target, sizes[-1] * itemsize, *others)):
        unit //= 2
    unit = max(unit, itemsize)
    factor = unit // itemsize

    def scaled(strides: Ints) -> Ints:
        return (*(stride // factor for stride in strides[:-1]), 1)

    return Walk(source, target, unit, (*sizes[:-1], sizes[-1] // factor), scaled(ours), scaled(theirs))


def _packed(shape: torch.Size) -> Ints:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))
