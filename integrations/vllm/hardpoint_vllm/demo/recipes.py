"""The two models of the demo: real architectures, small enough for two cores."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VOCABULARY = 512
EXPERTS = 8

# Head size 64 and expert width 64 are the smallest that vLLM's CPU kernels take (attention refuses 32, experts want
# multiples of 32); its gated delta net on the CPU computes in bf16 only.
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 64,
    "num_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class Recipe:
    """A model: `config_class` of transformers with `settings` on top of those that both share."""

    name: str
    title: str
    what: str
    config_class: str
    settings: dict[str, Any] = field(hash=False)

    def build(self, seed: int) -> PreTrainedModel:
        """The model with seeded random weights in float32: the trainer's master copy."""
        import torch
        import transformers

        torch.manual_seed(seed)
        config = getattr(transformers, self.config_class)(**_COMMON, **self.settings)
        model: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        return model


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "qwen3-moe",
            "Qwen3-MoE",
            f"2 layers, {EXPERTS} experts",
            "Qwen3MoeConfig",
            {"num_hidden_layers": 2},
        ),
        Recipe(
            "qwen3-next",
            "Qwen3-Next",
            f"3 gated-delta-net layers and 1 attention layer, {EXPERTS} experts and a shared one",
            "Qwen3NextConfig",
            {
                "num_hidden_layers": 4,
                "layer_types": ["linear_attention"] * 3 + ["full_attention"],
                "shared_expert_intermediate_size": 64,
                "linear_num_key_heads": 2,
                "linear_num_value_heads": 4,
                "linear_key_head_dim": 64,
                "linear_value_head_dim": 64,
                "partial_rotary_factor": 0.25,
            },
        ),
    )
}
