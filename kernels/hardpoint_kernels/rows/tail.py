"""`zero_tail`: the rows past the last token set to zero, with the number of tokens on the device."""

from __future__ import annotations

import torch
import triton

from hardpoint_kernels import checks
from hardpoint_kernels.errors import KernelRefused
from hardpoint_kernels.launch import PLAIN, Launcher
from hardpoint_kernels.rows._kernels import zero_tail_kernel

NAME = "zero_tail"
FLOATS = (torch.bfloat16, torch.float16, torch.float32)
ROWS = 4


def zero_tail(rows: torch.Tensor, count: torch.Tensor, *, launcher: Launcher = PLAIN) -> torch.Tensor:
    """Zero the rows of `rows` ``[T, ...]`` from ``count`` on, in place, whatever they hold; nothing waits for it.

    Args:
        rows: bfloat16, float16 or float32; dense but for the stride of the rows.
        count: ``[1]`` int32 or int64 on the same device, for example the end of query_start_loc. At or past T, nothing
            is written.

    Raises:
        KernelRefused: a sentence; nothing was launched.
    """
    if rows.dim() < 2:
        raise KernelRefused(f"{NAME}: rows must be [rows, ...], got {list(rows.shape)}; nothing was launched.")
    checks.expect_dense_rows(NAME, "rows", rows, rows.dim() - 1)
    checks.expect_dtype(NAME, "rows", rows, FLOATS)
    checks.expect_dtype(NAME, "count", count, (torch.int32, torch.int64))
    checks.expect_shape(NAME, "count", count, (1,), "one number")
    checks.expect_one_device(NAME, {"rows": rows, "count": count})
    width = rows[0].numel() if rows.shape[0] else 0
    if width:
        constants = {"WIDTH": width, "BLOCK": min(1024, triton.next_power_of_2(width)), "ROWS": ROWS}
        grid = (triton.cdiv(rows.shape[0], ROWS),)
        args = (rows, count, rows.shape[0], rows.stride(0))
        launcher.bind(zero_tail_kernel, *args, grid=grid, **constants)(*args, grid=grid)
    return rows
