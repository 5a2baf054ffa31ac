"""Kernels that digest boxes: words times the multipliers of their places in the packed bucket, summed by chunk.

A part of a word that is narrower than 4 bytes counts as the word with zeros for the rest: sums are linear, and the part
with the sign is the highest. Tables are those of `table.py`; a walk's target address is its byte in the bucket.
"""

from __future__ import annotations

import triton
import triton.language as tl

from hardpoint_kernels.layout._copy_kernel import _number, _row_start, _word


@triton.jit
def _times(words, factor):  # type: ignore[no-untyped-def]
    return tl.load(words).to(tl.int64) * factor


@triton.jit(do_not_specialize=["tiles"])  # type: ignore[untyped-decorator]
def digest_chunks(  # type: ignore[no-untyped-def]
    table, tiles, multipliers, sums, CHUNK: tl.constexpr, GROUP: tl.constexpr, SPLIT: tl.constexpr, BLOCK: tl.constexpr
):
    """Whole chunks of 2**CHUNK words in one range of memory: GROUP (1 or 4) of them share each multiplier that is read.

    Row of the table: address of the first chunk, a multiple of 16, and its number. A tile is 1/SPLIT of each chunk.
    """
    LENGTH: tl.constexpr = 1 << CHUNK
    COLUMNS: tl.constexpr = LENGTH // BLOCK // SPLIT
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        row = table + (tile // SPLIT) * 2
        first = _word(tl.load(row), 16)
        chunk = tl.load(row + 1)
        lane = tl.arange(0, BLOCK)
        a = tl.zeros([BLOCK], tl.int64)
        b = tl.zeros([BLOCK], tl.int64)
        c = tl.zeros([BLOCK], tl.int64)
        d = tl.zeros([BLOCK], tl.int64)
        begin = (tile % SPLIT) * COLUMNS
        for column in range(begin, begin + COLUMNS):
            at = column * BLOCK + lane
            factor = tl.load(multipliers + at)
            a += _times(first + at, factor)
            if GROUP == 4:
                b += _times(first + at + LENGTH, factor)
                c += _times(first + at + 2 * LENGTH, factor)
                d += _times(first + at + 3 * LENGTH, factor)
        tl.atomic_add(sums + chunk, tl.sum(a, 0))
        if GROUP == 4:
            tl.atomic_add(sums + chunk + 1, tl.sum(b, 0))
            tl.atomic_add(sums + chunk + 2, tl.sum(c, 0))
            tl.atomic_add(sums + chunk + 3, tl.sum(d, 0))


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
    INNER: tl.constexpr,
    NARROW: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """ROWS runs of COLUMNS units a tile; a tile's place in the bucket is shorter than a chunk.

    Args:
        multipliers: int64 ``[2**CHUNK]``.
        sums: int64, one for each chunk, and one for the bytes behind the last whole word.
        whole: whole words of the bucket. last: number of the last sum.
    """
    WORDS: tl.constexpr = UNIT // 4 if UNIT >= 4 else 1
    PARTS: tl.constexpr = 1 if UNIT >= 4 else 4 // UNIT
    BITS: tl.constexpr = 32 // PARTS
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        row = table + tl.load(walk_of + tile).to(tl.int64) * 16
        source = _word(tl.load(row), UNIT)
        local = (tile - tl.load(row + 14)).to(tl.int32)
        across = tl.load(row + 15).to(tl.int32)
        length = tl.load(row + 4) * WORDS
        number = (local // across) * ROWS + tl.arange(0, ROWS)
        word = (local % across) * (COLUMNS * WORDS) + tl.arange(0, COLUMNS * WORDS)
        inside = (number < tl.load(row + 13).to(tl.int32))[:, None] & (word < length)[None, :]
        ours = (_row_start(number, row, 5, NARROW) * WORDS)[:, None]
        if INNER:
            ours += word[None, :]
        else:
            ours += (word // WORDS * _number(row + 8, NARROW) * WORDS + word % WORDS)[None, :]
        value = tl.load(source + ours, mask=inside, other=0).to(tl.int64)
        start = tl.load(row + 1) // UNIT * WORDS
        place = start + number.to(tl.int64)[:, None] * length + word[None, :]
        if PARTS > 1:
            part = place % PARTS
            place = place // PARTS
            value = tl.where(part == PARTS - 1, value, value & ((1 << BITS) - 1)) << (part * BITS).to(tl.int64)
        tail = place >= whole
        factor = tl.load(multipliers + tl.where(tail, 0, place & ((1 << CHUNK) - 1)), mask=inside, other=0)
        product = value * factor
        begin = (local // across) * ROWS
        lowest = tl.minimum((start + begin * length + (local % across) * COLUMNS * WORDS) // PARTS >> CHUNK, last)
        end = (start + (begin + ROWS) * length) // PARTS
        if (end <= whole) & (tl.minimum(end >> CHUNK, last) == lowest):
            tl.atomic_add(sums + lowest, tl.sum(tl.sum(product, 1), 0))
        else:  # it lies in one chunk and the next, and the bucket's last word counts apart
            chunk = tl.where(tail, last, place >> CHUNK)
            tl.atomic_add(sums + lowest, tl.sum(tl.sum(tl.where(chunk == lowest, product, 0), 1), 0))
            for further in tl.static_range(1, 3):
                there = tl.minimum(lowest + further, last)
                mine = (chunk == there) & (there == lowest + further)
                tl.atomic_add(sums + there, tl.sum(tl.sum(tl.where(mine, product, 0), 1), 0))
