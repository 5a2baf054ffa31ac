"""Kernels that copy boxes. Programs go over the tiles of many walks; `calls.py` says what they promise.

A table has 16 int64 columns and a row for each walk; `table.py` says what is in them.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def _word(address, UNIT: tl.constexpr):  # type: ignore[no-untyped-def]
    """The address as a pointer to the words of a unit, with what is known about its alignment."""
    if UNIT >= 4:
        return tl.multiple_of(address, UNIT).to(tl.pointer_type(tl.int32))
    elif UNIT == 2:  # noqa: RET505 - constexpr branches: one function per unit
        return tl.multiple_of(address, 2).to(tl.pointer_type(tl.int16))
    else:
        return address.to(tl.pointer_type(tl.int8))


@triton.jit  # type: ignore[untyped-decorator]
def _number(address, NARROW: tl.constexpr):  # type: ignore[no-untyped-def]
    """A stride or size from the table. NARROW: no offset of the walk needs more than 31 bits."""
    value = tl.load(address)
    return value.to(tl.int32) if NARROW else value


@triton.jit  # type: ignore[untyped-decorator]
def _row_start(number, row, first, NARROW: tl.constexpr):  # type: ignore[no-untyped-def]
    """Offset in units of the runs `number` (int32) of a walk, by the strides from column `first` on."""
    n1, n2 = tl.load(row + 2).to(tl.int32), tl.load(row + 3).to(tl.int32)
    i2 = number % n2
    rest = number // n2
    i1 = rest % n1
    i0 = rest // n1
    outer = i0 * _number(row + first, NARROW) + i1 * _number(row + first + 1, NARROW)
    return outer + i2 * _number(row + first + 2, NARROW)


@triton.jit(do_not_specialize=["tiles"])  # type: ignore[untyped-decorator]
def copy_dense(table, walk_of, tiles, UNIT: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Copy BLOCK units a tile, of walks that are one range on both sides."""
    WORDS: tl.constexpr = UNIT // 4 if UNIT >= 4 else 1
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        row = table + tl.load(walk_of + tile).to(tl.int64) * 16
        source = _word(tl.load(row), UNIT)
        target = _word(tl.load(row + 1), UNIT)
        word = (tile - tl.load(row + 14)) * (BLOCK * WORDS) + tl.arange(0, BLOCK * WORDS)
        inside = word < tl.load(row + 4) * WORDS
        tl.store(target + word, tl.load(source + word, mask=inside), mask=inside)


@triton.jit(do_not_specialize=["tiles"])  # type: ignore[untyped-decorator]
def copy_rows(  # type: ignore[no-untyped-def]
    table,
    walk_of,
    tiles,
    UNIT: tl.constexpr,
    INNER: tl.constexpr,
    NARROW: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Copy ROWS runs of COLUMNS units a tile. INNER: the units of a run lie side by side on both sides."""
    WORDS: tl.constexpr = UNIT // 4 if UNIT >= 4 else 1
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        row = table + tl.load(walk_of + tile).to(tl.int64) * 16
        source = _word(tl.load(row), UNIT)
        target = _word(tl.load(row + 1), UNIT)
        local = (tile - tl.load(row + 14)).to(tl.int32)
        across = tl.load(row + 15).to(tl.int32)
        number = (local // across) * ROWS + tl.arange(0, ROWS)
        word = (local % across) * (COLUMNS * WORDS) + tl.arange(0, COLUMNS * WORDS)
        inside = (number < tl.load(row + 13).to(tl.int32))[:, None] & (word < _number(row + 4, NARROW) * WORDS)[None, :]
        ours = (_row_start(number, row, 5, NARROW) * WORDS)[:, None]
        theirs = (_row_start(number, row, 9, NARROW) * WORDS)[:, None]
        if INNER:
            ours += word[None, :]
            theirs += word[None, :]
        else:
            ours += (word // WORDS * _number(row + 8, NARROW) * WORDS + word % WORDS)[None, :]
            theirs += (word // WORDS * _number(row + 12, NARROW) * WORDS + word % WORDS)[None, :]
        tl.store(target + theirs, tl.load(source + ours, mask=inside), mask=inside)


@triton.jit(do_not_specialize=["tiles"])  # type: ignore[untyped-decorator]
def copy_turned(  # type: ignore[no-untyped-def]
    table,
    walk_of,
    tiles,
    ITEM: tl.constexpr,
    SOURCE_UNIT: tl.constexpr,
    TARGET_UNIT: tl.constexpr,
    VECTOR: tl.constexpr,
    NARROW: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Transpose tiles of ROWS x COLUMNS elements: columns run along the source's storage, rows along the target's.

    SOURCE_UNIT, TARGET_UNIT: the source's column stride, the target's row stride, is 1. VECTOR: what divides all other
    strides, sizes and addresses, in elements.
    """
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        at = table + tl.load(walk_of + tile).to(tl.int64) * 16
        down, across = tl.load(at + 13).to(tl.int32), tl.load(at + 15).to(tl.int32)
        local = (tile - tl.load(at + 14)).to(tl.int32)
        column = local % across
        row = (local // across) % down
        batch = local // (across * down)
        inner = tl.load(at + 4).to(tl.int32)
        outer, inner_at = batch // inner, batch % inner
        source = tl.load(at) + ITEM * (outer * tl.load(at + 5) + inner_at * tl.load(at + 6))
        target = tl.load(at + 1) + ITEM * (outer * tl.load(at + 9) + inner_at * tl.load(at + 10))
        source = tl.multiple_of(source, VECTOR * ITEM)
        target = tl.multiple_of(target, VECTOR * ITEM)
        if ITEM == 1:
            ours, theirs = source.to(tl.pointer_type(tl.int8)), target.to(tl.pointer_type(tl.int8))
        elif ITEM == 2:
            ours, theirs = source.to(tl.pointer_type(tl.int16)), target.to(tl.pointer_type(tl.int16))
        elif ITEM == 4:
            ours, theirs = source.to(tl.pointer_type(tl.int32)), target.to(tl.pointer_type(tl.int32))
        else:
            ours, theirs = source.to(tl.pointer_type(tl.int64)), target.to(tl.pointer_type(tl.int64))
        r = row * ROWS + tl.arange(0, ROWS)[:, None]
        c = column * COLUMNS + tl.arange(0, COLUMNS)[None, :]
        rows = tl.multiple_of(_number(at + 2, NARROW), VECTOR)
        columns = tl.multiple_of(_number(at + 3, NARROW), VECTOR)
        inside = (r < rows) & (c < columns)
        read = r * tl.multiple_of(_number(at + 7, NARROW), VECTOR)
        read += c if SOURCE_UNIT else c * _number(at + 8, NARROW)
        write = c * tl.multiple_of(_number(at + 12, NARROW), VECTOR)
        write += r if TARGET_UNIT else r * _number(at + 11, NARROW)
        tl.store(theirs + write, tl.load(ours + read, mask=inside), mask=inside)
