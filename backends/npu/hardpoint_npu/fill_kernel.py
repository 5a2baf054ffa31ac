"""The kernel that the launch limits are tried with, in Triton. Imported only on a device."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[misc, untyped-decorator, unused-ignore]
def fill(out, n):  # type: ignore[no-untyped-def]
    """``out[i] = i`` for i below n; a persistent loop, so that any grid covers all of it."""
    step = tl.num_programs(0)
    for i in range(tl.program_id(0), n, step):
        tl.store(out + i, i)
