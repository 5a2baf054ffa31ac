"""Names: what a wrapped or fused model calls a tensor, and what the checkpoint calls it."""

from __future__ import annotations

from hardpoint.sync.plan.names import plain_name

__all__ = ["is_adapter", "plain_name"]

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


def is_adapter(name: str) -> bool:
    """Whether a tensor belongs to an adapter (LoRA, DoRA, a module kept by ``modules_to_save``), by its name."""
    return any(part in _ADAPTER_PARTS or part.startswith("lora_") for part in name.split("."))
