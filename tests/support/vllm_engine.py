"""Stock vLLM in a subprocess of a test: one start-up, many questions, answers as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
QUICK = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",  # the models are too small for more, and several engines may share two cores
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


def ask(child: str, folder: Path, backend: str | None, *arguments: str, **environment: str) -> dict[str, Any]:
    """Run ``support.vllm_children.<child>`` with `HARDPOINT_BACKEND` as given (None: unset) and read what it found.

    The child gets the path of the JSON file that it must write, then `arguments`. Its log is in the key ``log``.
    """
    answer = folder / f"{child}-{backend}.json"
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("HARDPOINT_", "VLLM_"))}
    variables |= QUICK | environment | {"PYTHONPATH": str(TESTS)}
    if backend is not None:
        variables["HARDPOINT_BACKEND"] = backend
    ran = subprocess.run(
        [sys.executable, "-m", f"support.vllm_children.{child}", str(answer), *arguments],
        env=variables,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    log = ran.stdout + ran.stderr
    assert answer.exists(), f"{child} ended with {ran.returncode} and no answer:\n{log[-6000:]}"
    found: dict[str, Any] = json.loads(answer.read_text())
    return found | {"log": log}
