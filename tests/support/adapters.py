"""LoRA adapters as PEFT saves them, made from a seed, without PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

RANK = 4
TARGETS = ("q_proj", "v_proj", "o_proj", "gate_proj", "down_proj")
CONFIG: dict[str, Any] = {"r": RANK, "lora_alpha": 16, "target_modules": list(TARGETS), "bias": "none"}


def adapter(base: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Both matrices of every target in the checkpoint `base`, large enough that tokens change."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, weight in base.items():
        module = name.removesuffix(".weight")
        if module.rsplit(".", 1)[-1] in TARGETS:
            for side, shape in (("A", (RANK, weight.shape[1])), ("B", (weight.shape[0], RANK))):
                values = torch.randn(shape, generator=generator) * 0.3
                found[f"base_model.model.{module}.lora_{side}.weight"] = values
    return found


def save(tensors: dict[str, torch.Tensor], folder: Path) -> Path:
    """As `PeftModel.save_pretrained` leaves it."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **CONFIG}))
    return folder


def qwen3_dense(folder: Path, *, seed: int = 0) -> Path:
    """A two-layer dense Qwen3 in bf16."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from support.tiny_models import VOCABULARY

    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        initializer_range=0.2,
        dtype=torch.bfloat16,
    )
    torch.manual_seed(seed)
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder
