"""Kernels that copy boxes. A few programs go over the tiles of many walks; `calls.py` says what they promise.

Row of a table, int64: 0 source address, 1 target address, 2..4 inner sizes, 5..8 source strides, 9..12 target strides,
13 units, 14 first tile. Strides and sizes are units, outermost first; sizes[0] follows from the others.
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
def _place(unit, row, first):  # type: ignore[no-untyped-def]
    """Offset in units of the walk's unit number `unit`, by the strides from column `first` on."""
    n1, n2, n3 = tl.load(row + 2), tl.load(row + 3), tl.load(row + 4)
    i3 = unit % n3
    rest = unit // n3
    i2 = rest % n2
    rest = rest // n2
    i1 = rest % n1
    i0 = rest // n1
    outer = i0 * tl.load(row + first) + i1 * tl.load(row + first + 1)
    return outer + i2 * tl.load(row + first + 2) + i3 * tl.load(row + first + 3)


@triton.jit(do_not_specialize=["tiles"])  # type: ignore[untyped-decorator]
def copy_rows(table, walk_of, tiles, UNIT: tl.constexpr, DENSE: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Copy BLOCK units a tile. DENSE: every walk is one range on both sides."""
    WORDS: tl.constexpr = UNIT // 4 if UNIT >= 4 else 1
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        row = table + tl.load(walk_of + tile).to(tl.int64) * 16
        source = _word(tl.load(row), UNIT)
        target = _word(tl.load(row + 1), UNIT)
        units = tl.load(row + 13)
        begin = (tile - tl.load(row + 14)) * BLOCK
        if DENSE:
            word = begin * WORDS + tl.arange(0, BLOCK * WORDS)
            inside = word < units * WORDS
            tl.store(target + word, tl.load(source + word, mask=inside), mask=inside)
        else:
            unit = begin + tl.arange(0, BLOCK)
            there = tl.arange(0, WORDS)[None, :]
            inside = (unit < units)[:, None] & (there >= 0)
            value = tl.load(source + (_place(unit, row, 5) * WORDS)[:, None] + there, mask=inside)
            tl.store(target + (_place(unit, row, 9) * WORDS)[:, None] + there, value, mask=inside)


@triton.jit(do_not_specialize=["tiles"])  # type: ignore[untyped-decorator]
def copy_turned(  # type: ignore[no-untyped-def]
    table,
    walk_of,
    tiles,
    ITEM: tl.constexpr,
    SOURCE_UNIT: tl.constexpr,
    TARGET_UNIT: tl.constexpr,
    VECTOR: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Transpose tiles of ROWS x COLUMNS elements: columns run along the source's storage, rows along the target's.

    Row of the table: 0 source, 1 target, 2 rows, 3 columns, 4 inner batch size, 5..8 source strides of (batch, inner
    batch, row, column), 9..12 target strides, 13 tiles along the rows, 14 first tile, 15 tiles along the columns.
    SOURCE_UNIT, TARGET_UNIT: the source's column stride, the target's row stride, is 1. VECTOR: what divides all other
    strides, sizes and addresses, in elements.
    """
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        at = table + tl.load(walk_of + tile).to(tl.int64) * 16
        down, across = tl.load(at + 13), tl.load(at + 15)
        local = tile - tl.load(at + 14)
        column = local % across
        row = (local // across) % down
        batch = local // (across * down)
        inner = tl.load(at + 4)
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
        rows = tl.multiple_of(tl.load(at + 2), VECTOR)
        columns = tl.multiple_of(tl.load(at + 3), VECTOR)
        inside = (r < rows) & (c < columns)
        read = r * tl.multiple_of(tl.load(at + 7), VECTOR) + (c if SOURCE_UNIT else c * tl.load(at + 8))
        write = (r if TARGET_UNIT else r * tl.load(at + 11)) + c * tl.multiple_of(tl.load(at + 12), VECTOR)
        tl.store(theirs + write, tl.load(ours + read, mask=inside), mask=inside)
