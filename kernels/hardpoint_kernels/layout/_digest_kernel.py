"""The kernel that digests boxes: words times the multipliers of their places in the packed bucket, summed by chunk.

A part of a word that is narrower than 4 bytes counts as the word with zeros for the rest: sums are linear, and the part
with the sign is the highest. Rows of the table are those of `_copy_kernel.py`; the target address is the bucket's byte.
"""

from __future__ import annotations

import triton
import triton.language as tl

from hardpoint_kernels.layout._copy_kernel import _place, _word


@triton.jit(do_not_specialize=["tiles", "whole", "last"])  # type: ignore[untyped-decorator]
def digest_rows(  # type: ignore[no-untyped-def]
    table,
    walk_of,
    tiles,
    multipliers,
    sums,
    whole,
    last,
    UNIT: tl.constexpr,
    DENSE: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add the contributions of BLOCK units a tile.

    Args:
        multipliers: int64 ``[2**CHUNK]``.
        sums: int64, one for each chunk of 2**CHUNK words, and one for the bytes behind the last whole word.
        whole: whole words of the bucket. last: number of the last sum.
    """
    WORDS: tl.constexpr = UNIT // 4 if UNIT >= 4 else 1
    PARTS: tl.constexpr = 1 if UNIT >= 4 else 4 // UNIT
    BITS: tl.constexpr = 32 // PARTS
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        row = table + tl.load(walk_of + tile).to(tl.int64) * 16
        source = _word(tl.load(row), UNIT)
        units = tl.load(row + 13)
        begin = (tile - tl.load(row + 14)) * BLOCK
        first = tl.load(row + 1) // UNIT + begin  # unit of the bucket
        number = tl.arange(0, BLOCK * WORDS)
        inside = begin * WORDS + number < units * WORDS
        if DENSE:
            value = tl.load(source + begin * WORDS + number, mask=inside, other=0).to(tl.int64)
        else:
            unit = begin + number // WORDS
            value = tl.load(source + _place(unit, row, 5) * WORDS + number % WORDS, mask=inside, other=0).to(tl.int64)
        place = first * WORDS + number
        if PARTS > 1:
            part = place % PARTS
            place = place // PARTS
            value = tl.where(part == PARTS - 1, value, value & ((1 << BITS) - 1)) << (part * BITS).to(tl.int64)
        tail = place >= whole
        chunk = tl.where(tail, last, place >> CHUNK)
        factor = tl.load(multipliers + tl.where(tail, 0, place & ((1 << CHUNK) - 1)), mask=inside, other=0)
        product = value * factor
        lowest = tl.minimum(first * WORDS // PARTS >> CHUNK, last)
        # A tile is shorter than a chunk: it lies in one chunk and the next, and the bucket's last word apart.
        tl.atomic_add(sums + lowest, tl.sum(tl.where(chunk == lowest, product, 0), 0))
        for further in tl.static_range(1, 3):
            there = tl.minimum(lowest + further, last)
            more = tl.sum(tl.where((chunk == there) & (there == lowest + further), product, 0), 0)
            if more != 0:
                tl.atomic_add(sums + there, more)
