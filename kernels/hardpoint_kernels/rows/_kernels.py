"""The row kernels. `tail.py` and `scan.py` say what they promise."""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_rows"])
def zero_tail_kernel(x, count, num_rows, stride, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """One program: `ROWS` rows, which it leaves at once if all of them are tokens."""
    first = tl.program_id(0) * ROWS
    end = tl.load(count).to(tl.int64)
    if first + ROWS <= end:
        return
    row = (first + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    mask = (row >= end) & (row < num_rows)
    for at in range(0, WIDTH, BLOCK):
        column = at + tl.arange(0, BLOCK)[None, :]
        zero = tl.zeros([ROWS, BLOCK], tl.float32).to(x.dtype.element_ty)
        tl.store(x + row * stride + column, zero, mask=mask & (column < WIDTH))


@triton.jit(do_not_specialize=["num_rows"])
def scan_kernel(x, found, num_rows, stride, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """One program: `ROWS` rows. NaN is what differs from itself; infinity what is as large as nothing finite."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    inside = (row < num_rows)[:, None]
    nan = tl.zeros([ROWS], tl.int32)
    inf = tl.zeros([ROWS], tl.int32)
    for at in range(0, WIDTH, BLOCK):
        column = at + tl.arange(0, BLOCK)[None, :]
        value = tl.load(x + row[:, None] * stride + column, mask=inside & (column < WIDTH), other=0.0).to(tl.float32)
        nan = tl.maximum(nan, tl.max((value != value).to(tl.int32), 1))
        inf = tl.maximum(inf, tl.max((tl.abs(value) == float("inf")).to(tl.int32), 1))
    tl.store(found + row, nan + 2 * inf, mask=row < num_rows)
