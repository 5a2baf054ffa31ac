"""Field report 2 in stock vLLM: MTP speculative decoding, full graphs, an empty Triton cache. Needs vLLM with CUDA."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(420)]
if not torch.cuda.is_available() or importlib.util.find_spec("vllm") is None:
    pytest.skip("needs a CUDA GPU and vLLM: run where they are", allow_module_level=True)

# Qwen3-Next with four layers (three of them gated delta nets) and one MTP layer; weights are vLLM's dummies.
CONFIG = {
    "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "torch_dtype": "bfloat16",
    "hidden_size": 1024, "intermediate_size": 1024, "num_hidden_layers": 4, "full_attention_interval": 4,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128, "vocab_size": 8192,
    "linear_num_key_heads": 8, "linear_num_value_heads": 16, "linear_key_head_dim": 128,
    "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "num_experts": 8, "num_experts_per_tok": 2,
    "moe_intermediate_size": 256, "shared_expert_intermediate_size": 256, "decoder_sparse_step": 1,
    "norm_topk_prob": True, "mlp_only_layers": [], "max_position_embeddings": 4096, "rope_theta": 10000000.0,
    "partial_rotary_factor": 0.25, "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False,
    "num_nextn_predict_layers": 1, "attention_bias": False, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

CHILD = """
import sys
from vllm import LLM, SamplingParams
llm = LLM(sys.argv[1], load_format="dummy", skip_tokenizer_init=True, max_model_len=1024, max_num_seqs=4,
          gpu_memory_utilization=0.3, max_num_batched_tokens=1024, enable_prefix_caching=False,
          speculative_config={"method": "mtp", "num_speculative_tokens": 2},
          additional_config={"gdn_prefill_backend": "triton"},
          compilation_config={"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": [3, 6, 12]})
from hardpoint import guard
print("GUARD", guard.status(), flush=True)
prompts = [{"prompt_token_ids": list(range(10 * n, 10 * n + 5 + n))} for n in range(1, 5)]
out = llm.generate(prompts, SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True, detokenize=False))
print("TOKENS", [list(o.outputs[0].token_ids) for o in out], flush=True)
"""


@pytest.mark.parametrize("strict", [False, True], ids=["this driver", "a driver that refuses loads in a capture"])
def test_mtp_with_full_graphs_from_an_empty_triton_cache(strict: bool, tmp_path: Path) -> None:
    """It works; where the driver would refuse a load in the capture, it works too or the named error comes."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(CONFIG))
    environment = {
        **os.environ,
        "TRITON_CACHE_DIR": str(tmp_path / "triton"),
        "VLLM_CACHE_ROOT": str(tmp_path / "vllm"),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_USE_FLASHINFER_SAMPLER": "0",  # flashinfer is not part of what has to be installed
        "HARDPOINT_GUARD": "strict" if strict else "on",
    }
    command = [sys.executable, "-c", CHILD, str(tmp_path / "model")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    text = run.stdout + run.stderr
    if folder := os.environ.get("HARDPOINT_RESULTS"):
        (Path(folder) / f"vllm_mtp_{'strict' if strict else 'on'}.log").write_text(text)
    if strict and run.returncode != 0:
        assert "CaptureRefused" in text, text[-3000:]
        assert "loaded for the first time inside a graph capture" in text
        return
    assert run.returncode == 0, text[-3000:]
    tokens = json.loads(next(line for line in run.stdout.splitlines() if line.startswith("TOKENS"))[7:])
    assert [len(answer) for answer in tokens] == [24] * 4
    assert "installed=True" in next(line for line in run.stdout.splitlines() if line.startswith("GUARD"))
