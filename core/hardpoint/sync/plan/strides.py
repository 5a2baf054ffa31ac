"""Arithmetic of strided boxes: every layout transform of the package is a copy between two of them.

A box has sizes, and on each side an offset and one stride per dimension, in storage elements. Transposes, halves in
another order, interleaved rows and slices are all of this kind; nothing else is needed, and nothing is computed.
"""

from __future__ import annotations

import math
from functools import lru_cache

Ints = tuple[int, ...]


def contiguous(shape: Ints) -> Ints:
    """Row-major strides of `shape`."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


@lru_cache(maxsize=65536)
def volume(sizes: Ints) -> int:
    """Elements of a box."""
    return math.prod(sizes)


@lru_cache(maxsize=65536)
def normal(sizes: Ints, source: Ints, destination: Ints) -> tuple[Ints, Ints, Ints]:
    """The same copy with as few dimensions as it takes, in the order of the destination's storage.

    Returns ``(sizes, source strides, destination strides)``; the walk over the box in row-major order touches the
    destination in ascending order, so that what is packed this way lands without being reordered.
    """
    dims = sorted(
        ((size, s, d) for size, s, d in zip(sizes, source, destination, strict=True) if size != 1),
        key=lambda dim: -dim[2],
    )
    merged: list[tuple[int, int, int]] = []
    for size, s, d in dims:
        if merged and merged[-1][1] == s * size and merged[-1][2] == d * size:
            merged[-1] = (merged[-1][0] * size, s, d)
        else:
            merged.append((size, s, d))
    if not merged:
        return (1,), (1,), (1,)
    return tuple(m[0] for m in merged), tuple(m[1] for m in merged), tuple(m[2] for m in merged)


@lru_cache(maxsize=4096)
def injective(sizes: Ints, strides: Ints) -> bool:
    """Whether no two elements of the grid share a storage element.

    The mixed-radix condition: each stride clears all that the smaller ones reach. It holds for every permutation,
    split and padding of dense storage; a grid that is injective in some other way is refused too.
    """
    reach = 0
    for stride, size in sorted((stride, size) for stride, size in zip(strides, sizes, strict=True) if size > 1):
        if stride <= reach:
            return False
        reach += stride * (size - 1)
    return True


def extent(sizes: Ints, strides: Ints) -> int:
    """Storage elements from the first to the last of the grid, both counted; 0 for an empty one."""
    if 0 in sizes:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
