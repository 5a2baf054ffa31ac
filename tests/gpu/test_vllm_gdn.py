"""hardpoint's GDN kernels inside stock vLLM on a GPU: tokens and log-probabilities against vLLM's own. Not run yet.

Run with: pytest -m gpu tests/gpu/test_vllm_gdn.py. The noise that is allowed is vLLM's own: the same prompts in one
batch and one after the other.
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

from support.logprobs import Step, judge

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1500)]
if not torch.cuda.is_available() or importlib.util.find_spec("vllm") is None:
    pytest.skip("needs a CUDA GPU and vLLM: run where they are", allow_module_level=True)

# Qwen3-Next with three gated delta nets of real head sizes; weights so large that a choice hangs on more than noise.
SIZES = {
    "torch_dtype": "bfloat16", "hidden_size": 1024, "intermediate_size": 1024, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128, "vocab_size": 4096,
    "linear_num_key_heads": 8, "linear_num_value_heads": 16, "linear_key_head_dim": 128,
    "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "num_experts": 8, "num_experts_per_tok": 2,
    "moe_intermediate_size": 256, "shared_expert_intermediate_size": 256, "decoder_sparse_step": 1,
    "mlp_only_layers": [], "max_position_embeddings": 4096, "partial_rotary_factor": 0.25,
    "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.08,
}  # fmt: skip

CHILD = """
import json, sys
from vllm import LLM, SamplingParams
llm = LLM(sys.argv[1], skip_tokenizer_init=True, max_model_len=2048, max_num_seqs=8, gpu_memory_utilization=0.3,
          max_num_batched_tokens=4096, enable_prefix_caching=False, max_logprobs=20, seed=0,
          additional_config={"gdn_prefill_backend": "triton"},
          compilation_config={"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": [1, 4, 8]})
prompts = [{"prompt_token_ids": [3 + (7 * n + i * i) % 4000 for i in range(length)]}
           for n, length in enumerate((5, 64, 200, 1000))]
params = SamplingParams(max_tokens=32, temperature=0.0, ignore_eos=True, detokenize=False, logprobs=20)
batches = [prompts] if sys.argv[2] == "together" else [[prompt] for prompt in prompts]
answers = [answer.outputs[0] for batch in batches for answer in llm.generate(batch, params)]
steps = [[(token, {number: value.logprob for number, value in row.items()})
          for token, row in zip(answer.token_ids, answer.logprobs)] for answer in answers]
print("STEPS", json.dumps(steps), flush=True)
"""


def generate(model: Path, cache: Path, kernels: str, how: str) -> tuple[list[list[Step]], str]:
    environment = {
        **os.environ, "VLLM_CACHE_ROOT": str(cache), "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_USE_FLASHINFER_SAMPLER": "0", "HARDPOINT_BACKEND": "cuda", "HARDPOINT_KERNELS": kernels,
    }  # fmt: skip
    command = [sys.executable, "-c", CHILD, str(model), how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=450)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text[-3000:]
    told: Any = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("STEPS"))[6:])
    return [[(token, {int(key): value for key, value in row.items()}) for token, row in steps] for steps in told], text


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("qwen3-next")
    Qwen3NextForCausalLM(Qwen3NextConfig(**SIZES)).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kernels", ["decode", "prefill", "all", "auto"])
def test_tokens_and_log_probabilities(kernels: str, model: Path, tmp_path: Path) -> None:
    """Equal to vLLM's own kernels within what those differ from themselves; and ours did run."""
    peer, _ = generate(model, tmp_path, "off", "together")
    again, _ = generate(model, tmp_path, "off", "apart")
    ours, text = generate(model, tmp_path, kernels, "together")
    assert judge(peer, again, ours) is None
    assert "stays vLLM's from now on" not in text, "a kernel refused a batch"
    if kernels != "auto":
        assert "hardpoint" in text.lower()
