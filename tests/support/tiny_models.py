"""Small seeded models of real architectures, as checkpoints that vLLM and transformers both load."""

from __future__ import annotations

from pathlib import Path

import torch

VOCABULARY = 512
# The last is longer than two blocks of the prefix cache: values kept from old weights would show in its continuation.
PROMPTS = ([1, 5, 9, 33, 120], [400, 3, 77], [(7 * n) % VOCABULARY for n in range(300)])


def qwen3_moe(folder: Path, *, seed: int = 0) -> Path:
    """A two-layer Qwen3-MoE with 8 experts in bf16; head size 64, since vLLM's CPU attention refuses 32."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        moe_intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=64,
        num_experts=8,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        # Wide enough that changed weights change the tokens.
        initializer_range=0.2,
        dtype=torch.bfloat16,
    )
    torch.manual_seed(seed)
    model = Qwen3MoeForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    return folder


def qwen3_next(folder: Path, *, seed: int = 0) -> Path:
    """A four-layer Qwen3-Next in bf16: three gated-delta-net layers, one of attention, 8 experts and a shared one."""
    from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

    config = Qwen3NextConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=128,
        moe_intermediate_size=64,
        shared_expert_intermediate_size=64,
        num_hidden_layers=4,
        layer_types=["linear_attention"] * 3 + ["full_attention"],
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=64,
        linear_value_head_dim=64,
        partial_rotary_factor=0.25,
        num_experts=8,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        initializer_range=0.2,
        dtype=torch.bfloat16,
    )
    torch.manual_seed(seed)
    model = Qwen3NextForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    return folder


def checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the checkpoint in `folder`, by name."""
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(path))
    return tensors
