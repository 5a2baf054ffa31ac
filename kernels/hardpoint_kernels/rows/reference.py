"""What the row kernels do, in torch."""

from __future__ import annotations

import torch

NAN = 1
INF = 2


def zero_tail(rows: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """`rows` ``[T, ...]`` with the rows from ``count`` on set to zero, in place."""
    rows[int(count) :] = 0
    return rows


def scan_rows(rows: torch.Tensor) -> torch.Tensor:
    """``[T]`` int32: 1 if the row ``[T, ...]`` holds NaN, plus 2 if it holds an infinity."""
    flat = rows.reshape(rows.shape[0], -1)
    return (flat.isnan().any(1) * NAN + flat.isinf().any(1) * INF).to(torch.int32)
