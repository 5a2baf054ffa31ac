"""`scan_rows`: which rows hold NaN or infinity, in one pass."""

from __future__ import annotations

import torch
import triton

from hardpoint_kernels import checks
from hardpoint_kernels.errors import KernelRefused
from hardpoint_kernels.launch import PLAIN, Launcher
from hardpoint_kernels.rows._kernels import scan_kernel

NAME = "scan_rows"
FLOATS = (torch.bfloat16, torch.float16, torch.float32)
ROWS = 4


def scan_rows(rows: torch.Tensor, *, launcher: Launcher = PLAIN) -> torch.Tensor:
    """``[T]`` int32 for `rows` ``[T, ...]``: 1 if a row holds NaN, plus 2 if it holds an infinity, 0 if all is finite.

    Args:
        rows: bfloat16, float16 or float32; dense but for the stride of the rows.

    Raises:
        KernelRefused: a sentence; nothing was launched.
    """
    if rows.dim() < 2:
        raise KernelRefused(f"{NAME}: rows must be [rows, ...], got {list(rows.shape)}; nothing was launched.")
    checks.expect_dense_rows(NAME, "rows", rows, rows.dim() - 1)
    checks.expect_dtype(NAME, "rows", rows, FLOATS)
    found = torch.zeros(rows.shape[0], dtype=torch.int32, device=rows.device)
    width = rows[0].numel() if rows.shape[0] else 0
    if width:
        constants = {"WIDTH": width, "BLOCK": min(1024, triton.next_power_of_2(width)), "ROWS": ROWS}
        grid = (triton.cdiv(rows.shape[0], ROWS),)
        args = (rows, found, rows.shape[0], rows.stride(0))
        launcher.bind(scan_kernel, *args, grid=grid, **constants)(*args, grid=grid)
    return found
