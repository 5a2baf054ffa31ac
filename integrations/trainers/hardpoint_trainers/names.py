"""Names: what a wrapped or fused model calls a tensor, and what the checkpoint calls it."""

from __future__ import annotations

_PEFT_PREFIX = "base_model.model."
_WRAPPERS = ("_fsdp_wrapped_module.", "_orig_mod.", "_checkpoint_wrapped_module.")
_ADAPTER_PARTS = frozenset(
    {
        "lora_A",
        "lora_B",
        "lora_embedding_A",
        "lora_embedding_B",
        "lora_magnitude_vector",
        "modules_to_save",
        "original_module",
    }
)


def plain_name(name: str) -> str:
    """`name` without what PEFT, FSDP1, activation checkpointing and ``torch.compile`` put around it.

    ``base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight`` -> ``model.layers.0.self_attn.q_proj.weight``
    """
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name.removeprefix(_PEFT_PREFIX).replace(".base_layer.", ".")


def is_adapter(name: str) -> bool:
    """Whether a tensor belongs to an adapter (LoRA, DoRA, a module kept by ``modules_to_save``), by its name."""
    return any(part in _ADAPTER_PARTS or part.startswith("lora_") for part in name.split("."))
