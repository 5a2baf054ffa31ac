"""`TritonLauncher("cpu")` over Triton's interpreter: for tests of kernels on hosts without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="needs Triton, which is installed on Linux only")

PROGRAM = """
import torch, triton
import triton.language as tl
from hardpoint.errors import LaunchRefused
from hardpoint.launcher.triton import TritonLauncher

@triton.jit
def add(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n) + tl.load(y + i, mask=i < n), mask=i < n)

@triton.jit
def matmul(a, b, out, N: tl.constexpr):
    i, j = tl.arange(0, N)[:, None], tl.arange(0, N)[None, :]
    tl.store(out + i * N + j, tl.dot(tl.load(a + i * N + j), tl.load(b + i * N + j)))

launcher = TritonLauncher("cpu")
x, y, out = torch.randn(100), torch.randn(100), torch.zeros(100)
plan = launcher.explain(add, x, y, out, 100, BLOCK=32)
assert (plan.device, plan.loaded, plan.refusal) == ("cpu:0", False, None), plan
launcher.launch(add, x, y, out, 100, BLOCK=32, grid=(4,))
assert torch.equal(out, x + y)
out.zero_()
launcher.bind(add, x, y, out, 100, BLOCK=32, grid=(4,))(x, y, out, 50)
assert torch.equal(out[:50], (x + y)[:50]) and not out[50:].any()
a, b = (torch.randn(16, 16, dtype=torch.float16) for _ in range(2))
product = torch.zeros(16, 16)
launcher.launch(matmul, a, b, product, N=16, grid=(1,))
assert torch.allclose(product, a.float() @ b.float(), atol=1e-2)
product.fill_(7)
try:
    launcher.launch(matmul, a.bfloat16(), b.bfloat16(), product, N=16, grid=(1,))
except LaunchRefused as error:
    assert "matmul uses tl.dot, and a, b are bf16" in str(error), error
else:
    raise AssertionError("bf16 through tl.dot was not refused")
assert (product == 7).all()
try:
    launcher.launch(add, x.to("meta"), y, out, 100, BLOCK=32, grid=(4,))
except LaunchRefused as error:
    assert "x on meta" in str(error), error
print("kept")
"""


def test_interpreted_kernels_follow_the_same_rules(tmp_path: Path) -> None:
    program = tmp_path / "program.py"  # the interpreter reads a kernel's source from its file
    program.write_text(PROGRAM)
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run(
        [sys.executable, str(program)], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.stdout.strip() == "kept", run.stderr[-2000:]
