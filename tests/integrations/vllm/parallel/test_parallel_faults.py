"""A rank that dies or stalls in mid-step, in a real engine: every survivor gets an error with a name, in time.

One start by default, since each costs most of a minute; PARALLEL_ALL=1 runs all four.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from support.tiny_models import qwen3_moe
from support.vllm_engine import ask

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]
DEADLINE = 25.0  # of a collective; start-up meets under it too
QUICK = {("tp", "kill")}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(qwen3_moe(tmp_path_factory.mktemp("model") / "model"))


@pytest.mark.parametrize("fault", ["kill", "stall"])
@pytest.mark.parametrize("layout", ["dp", "tp"])
def test_survivors_are_told_who_is_gone(tmp_path: Path, model: str, layout: str, fault: str) -> None:
    if (layout, fault) not in QUICK and not os.environ.get("PARALLEL_ALL"):
        pytest.skip(f"{layout} with a rank to {fault} runs with PARALLEL_ALL=1; one of the four runs here")
    records = tmp_path / "records"
    variables = {
        "HARDPOINT_COLLECTIVE_DEADLINE": f"{DEADLINE:g}",
        "HARDPOINT_RECORDS": str(records),
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "0|1" if layout == "tp" else "nobind",
    }
    answer: dict[str, Any] = ask("parallel_faults", tmp_path, "cpu", model, layout, fault, **variables)
    said = f"{answer['error']}\n{answer['log']}"
    assert answer["error"] is not None
    assert not answer["error"].startswith("no answer"), said[-4000:]
    assert "rank 1" in said, said[-4000:]
    if fault == "kill":
        assert "RankLost" in said, said[-4000:]
        assert "has died" in said
        assert answer["seconds"] < DEADLINE, "a death is known before the deadline"
    else:
        assert "DeadlineExceeded" in said, said[-4000:]
        # The group's watch waits for a beat that does not come; our communicator reads once, and sees that it is late.
        assert "has been silent" in said or "has not called it" in said
        assert answer["seconds"] < DEADLINE + 15
    assert list(records.glob("*.json")), "the survivor left a record"
