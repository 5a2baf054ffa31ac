"""Expert + data parallel in vLLM on 2 and 4 GPUs: uneven load for 2,000 steps, no hang, no NaN, the tokens of TP alone.

Needs vLLM with CUDA. Two GPUs: DP=2, EP beside TP=2. Four: TP=2, DP=2, EP beside TP=4. Eager and with graphs.
    pytest -m gpu tests/gpu/test_vllm_dp_ep.py
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]
if not torch.cuda.is_available() or importlib.util.find_spec("vllm") is None:
    pytest.skip("needs CUDA GPUs and vLLM: run where they are", allow_module_level=True)

from gpu.test_vllm_mtp import CONFIG  # noqa: E402

TESTS = Path(__file__).resolve().parent.parent
STEPS = int(os.environ.get("DP_EP_STEPS", "2000"))
# Of the two best tokens where the runs part: weights are random, and bf16 sums in another order move the log-probs.
NEAR_TIE = 0.5


def run(folder: Path, tp: int, dp: int, graphs: bool) -> list[dict[str, Any]]:
    """What each data-parallel rank answered to the plan of `support.vllm_children.parallel`."""
    model = folder / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text(json.dumps({k: v for k, v in CONFIG.items() if "nextn" not in k}))
    options: dict[str, Any] = {
        "tensor_parallel_size": tp,
        "enable_expert_parallel": dp > 1,
        "load_format": "dummy",
        "gpu_memory_utilization": 0.3,
        "enforce_eager": not graphs,
        "additional_config": {"gdn_prefill_backend": "triton"},
    }
    if graphs:
        options["compilation_config"] = {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}
    answer = folder / f"{tp}-{dp}-{graphs}.json"
    environment = {
        **os.environ,
        "HARDPOINT_BACKEND": "cuda",
        "HARDPOINT_PLATFORM": "derived",
        "PYTHONPATH": str(TESTS),
        "PARALLEL_DEADLINE": "800",
        "PARALLEL_STEPS": str(STEPS),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
    }
    command = [sys.executable, "-m", "support.vllm_children.parallel", str(answer), str(model), json.dumps(options)]
    subprocess.run([*command, str(dp), "prompts,idle,arrivals"], env=environment, timeout=850, check=True)
    found: list[dict[str, Any]] = json.loads(answer.read_text())["ranks"]
    return found


@pytest.mark.parametrize("graphs", [False, True], ids=["eager", "graphs"])
@pytest.mark.parametrize("tp", [1, 2], ids=["two GPUs", "four GPUs"])
def test_uneven_load_ends_with_the_tokens_of_one_engine(tmp_path: Path, tp: int, graphs: bool) -> None:
    if torch.cuda.device_count() < 2 * tp:
        pytest.skip(f"needs {2 * tp} GPUs, found {torch.cuda.device_count()}")
    ranks = run(tmp_path, tp, 2, graphs)
    assert [rank["error"] for rank in ranks] == [None, None]
    assert all(rank["steps"] >= STEPS for rank in ranks)
    (alone,) = run(tmp_path, 2 * tp, 1, graphs)
    assert alone["error"] is None
    for rank in ranks:
        for name, tokens in rank["tokens"].items():
            reference, gaps = alone["tokens"][name], alone["gaps"][name]
            assert all(gap == gap for gap in rank["gaps"][name]), f"{name}: log-probs are no numbers"
            at = next((n for n, (a, b) in enumerate(zip(tokens, reference, strict=True)) if a != b), None)
            assert at is None or gaps[at] < NEAR_TIE, (
                f"{name} parts at {at}, where one engine was sure by {gaps[at]:.2f}"
            )


def test_the_derived_platform_and_attention_are_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an engine process would install, asked in a process of its own."""
    from hardpoint_vllm.probe import run as installed

    monkeypatch.setenv("HARDPOINT_BACKEND", "cuda")
    monkeypatch.setenv("HARDPOINT_PLATFORM", "derived")
    found = installed(120.0)
    assert found.error == ""
    assert found.platform == "HardpointCudaPlatform"
    rows = {(row["owner"], row["installed"]) for row in found.overrides}
    assert ("hardpoint_vllm.platform.cuda", True) in rows
    assert ("hardpoint_vllm.parallel.zero_tail", True) in rows
    assert ("hardpoint_vllm.parallel.zero_tail", False) not in rows
