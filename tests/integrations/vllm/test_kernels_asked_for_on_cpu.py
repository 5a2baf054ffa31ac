"""``HARDPOINT_KERNELS`` by name on the CPU, in a real engine: vLLM's GDN layer takes a path there that asks nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hardpoint_vllm.demo.recipes import RECIPES

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

CHILD = """
import sys
from vllm import LLM
LLM(sys.argv[1], load_format="dummy", skip_tokenizer_init=True, max_model_len=64, max_num_seqs=2, enforce_eager=True)
print("SERVES", flush=True)
"""


def test_the_engine_does_not_start_with_kernels_that_nobody_offers(tmp_path: Path) -> None:
    """It says what was asked for and why it cannot be had, and runs nothing else in its place."""
    RECIPES["qwen3-next"].build(seed=0).config.save_pretrained(tmp_path)
    environment = {
        **os.environ, "HARDPOINT_BACKEND": "cpu", "HARDPOINT_KERNELS": "all", "HF_HUB_OFFLINE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    text = done.stdout + done.stderr
    assert done.returncode != 0 and "SERVES" not in done.stdout, text[-3000:]
    assert "HARDPOINT_KERNELS asks for hardpoint's gdn_decode, but no plugin offers it" in text, text[-3000:]
