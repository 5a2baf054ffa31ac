"""`hardpoint demo` as a user runs it: it passes, and it fails when a fault is planted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHECKS = ["start", "update-1", "new-1", "update-2", "new-2", "refusal", "untouched", "control", "repair"]


def demo(*arguments: str, keep: Path, code: int) -> dict[str, Any]:
    """Run the demo, check its exit status, and give its report."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HARDPOINT_")}
    ran = subprocess.run(
        [sys.executable, "-m", "hardpoint", "demo", "--json", "--keep", str(keep), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )
    assert ran.returncode == code, f"exit status {ran.returncode}\n{ran.stdout[-4000:]}\n{ran.stderr[-4000:]}"
    report: dict[str, Any] = json.loads(ran.stdout)
    return report


@pytest.mark.vllm
@pytest.mark.timeout(900)
def test_the_demo_proves_its_claims_on_both_models(tmp_path: Path) -> None:
    report = demo(keep=tmp_path, code=0)
    assert report["passed"]
    assert [model["name"] for model in report["models"]] == ["qwen3-moe", "qwen3-next"]
    for model in report["models"]:
        assert [check["key"] for check in model["checks"]] == CHECKS
        assert all(check["passed"] for check in model["checks"])
        assert model["facts"]["platform"].startswith("hardpoint_vllm.")


@pytest.mark.vllm
@pytest.mark.timeout(900)
def test_a_planted_fault_ends_it_with_status_1(tmp_path: Path) -> None:
    report = demo("--model", "qwen3-moe", "--sabotage", "swap", keep=tmp_path, code=1)
    assert not report["passed"]
    failed = [check["key"] for model in report["models"] for check in model["checks"] if not check["passed"]]
    assert failed == ["update-1"]


def test_an_unknown_model_is_a_usage_error() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "hardpoint", "demo", "--model", "gpt-9"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 2
    assert "qwen3-moe" in ran.stderr
