"""Sleep and wake of vLLM on two GPUs: 50 cycles by hardpoint, and stock's own result beside it. Needs vLLM with CUDA.

    python -m pytest -q -s tests/gpu/test_vllm_sleep.py -k "TP=2"
    python -m pytest -q -s tests/gpu/test_vllm_sleep.py -k "PP=2"

Not run on a device yet.
"""

from __future__ import annotations

import importlib.util
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]
if torch.cuda.device_count() < 2 or importlib.util.find_spec("vllm") is None:
    pytest.skip("needs two CUDA GPUs and vLLM: run where they are", allow_module_level=True)

from support.tiny_models import qwen3_moe  # noqa: E402
from support.vllm_engine import ask  # noqa: E402

CYCLES = 50


def told(name: str, found: dict[str, Any]) -> None:
    """One line for the reader of the run."""
    done = len(found["equal"])
    seconds = {kind: f"{statistics.median(found[kind]) * 1e3:.0f} ms" for kind in ("sleep", "wake") if found[kind]}
    print(f"\n{name}: {sum(found['equal'])} of {done} cycles with equal tokens, {seconds}, error {found['error']}")


@pytest.mark.parametrize(("tensor", "pipeline"), [("2", "1"), ("1", "2")], ids=["TP=2", "PP=2"])
@pytest.mark.parametrize("eager", ["eager", "graphs"])
def test_fifty_cycles_give_the_same_tokens(tensor: str, pipeline: str, eager: str, tmp_path: Path) -> None:
    model = str(qwen3_moe(tmp_path / "model"))
    stock = ask("sleep_cycles", tmp_path, "off", model, tensor, pipeline, str(CYCLES), eager)
    told("stock", stock)  # whatever it did: it is here to be read, not to be judged
    ours = ask("sleep_cycles", tmp_path, "cuda:sleep", model, tensor, pipeline, str(CYCLES), eager)
    told("hardpoint", ours)
    assert ours["error"] is None
    assert ours["states"] == [[True, False]] * CYCLES
    assert ours["equal"] == [True] * CYCLES
