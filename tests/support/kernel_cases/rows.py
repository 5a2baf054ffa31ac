"""`zero_tail` and `scan_rows` against their references."""

from __future__ import annotations

import torch

from hardpoint_kernels.rows import reference
from hardpoint_kernels.rows.scan import scan_rows
from hardpoint_kernels.rows.tail import zero_tail
from support.kernel_cases.decode import expect

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def case_zero_tail(device: str) -> None:
    """None, some, all rows, and a count past the end; NaN goes too; what lies between strided rows stays."""
    for dtype in DTYPES:
        for count in (0, 1, 5, 9, 12):
            wide = torch.randn(9, 3, 50).to(dtype)
            wide[7] = float("nan")
            there = wide.to(device)
            number = torch.tensor([count], dtype=torch.int32, device=device)
            assert torch.equal(
                zero_tail(there.clone(), number).cpu().nan_to_num(),
                reference.zero_tail(wide.clone(), number).nan_to_num(),
            )
            before = there[:, 1:].clone()
            zero_tail(there.flatten(1)[:, :50], number)
            assert not there[count:, 0].any() and torch.equal(there[:, 1:].nan_to_num(), before.nan_to_num())


def case_scan(device: str) -> None:
    """NaN, infinities of both signs, both in one row, the largest finite value, and a row longer than a block."""
    for dtype in DTYPES:
        rows = torch.randn(7, 1500).to(dtype)
        rows[1, 1499] = float("nan")
        rows[2, 0] = float("inf")
        rows[3, 1030] = float("-inf")
        rows[4, 5], rows[4, 6] = float("nan"), float("-inf")
        rows[5, 9] = torch.finfo(dtype).max
        found = scan_rows(rows.to(device))
        assert found.tolist() == [0, 1, 2, 2, 3, 0, 0] == reference.scan_rows(rows).tolist()
    assert scan_rows(torch.zeros(0, 4, device=device)).shape == (0,)


def case_refusals(device: str) -> None:
    """Each wrong argument is one sentence with its name."""
    rows, count = torch.zeros(4, 8, device=device), torch.zeros(1, dtype=torch.int32, device=device)
    expect("rows must be [rows, ...]", scan_rows, rows[0])
    expect("rows must be bfloat16", scan_rows, rows.double())
    expect("rows must be contiguous", scan_rows, rows.t())
    expect("count must be int32", zero_tail, rows, count.float())
    expect("count must be one number", zero_tail, rows, count.repeat(2))
