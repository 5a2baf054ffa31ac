"""Small real transformers models as a trainer has them in memory, seeded."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3MoeConfig


def tiny_trainer_moe(*, tie_word_embeddings: bool = False, seed: int = 0) -> PreTrainedModel:
    """Two layers, four experts, about 60 k parameters, bf16."""
    torch.manual_seed(seed)
    config = Qwen3MoeConfig(
        hidden_size=32,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        vocab_size=64,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        tie_word_embeddings=tie_word_embeddings,
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    return model
