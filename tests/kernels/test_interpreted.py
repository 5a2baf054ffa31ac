"""The kernels' cases under Triton's interpreter, which is chosen when Triton is imported: one process per group."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="needs Triton, which is installed on Linux only")

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("group", ["decode", "prefill", "chunk", "layer", "pieces", "rows", "bad"])
def test_cases(group: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "support.kernel_cases", group],
        cwd=TESTS,
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"ok {group}.case_" in done.stdout
