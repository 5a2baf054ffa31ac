"""The layout kernels through Triton's interpreter: a process of its own, since it is chosen when Triton is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="needs Triton, which is installed on Linux only")


def test_every_case_through_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "support.layout_cases", "cpu"],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok case_") == 7
