"""Names: what a wrapped or fused model calls a tensor, and what the checkpoint calls it."""

from __future__ import annotations

_PEFT_PREFIX = "base_model.model."
_WRAPPERS = ("_fsdp_wrapped_module.", "_orig_mod.", "_checkpoint_wrapped_module.")


def plain_name(name: str) -> str:
    """`name` without what PEFT, FSDP1, activation checkpointing and ``torch.compile`` put around it.

    ``base_model.model.model.layers.0.mlp.up_proj.base_layer.weight`` -> ``model.layers.0.mlp.up_proj.weight``.
    A module that PEFT trains whole has its trained copy under ``modules_to_save.<adapter>``; that copy is the weight
    that serves, so it gets the plain name, and ``original_module`` keeps its own.
    """
    if "." not in name:
        return name
    if "_" in name:
        for wrapper in _WRAPPERS:
            name = name.replace(wrapper, "")
        name = name.removeprefix(_PEFT_PREFIX)
        while ".base_layer." in name:
            name = name.replace(".base_layer.", ".")
        if ".modules_to_save." in name:
            head, _, tail = name.partition(".modules_to_save.")
            name = f"{head}.{tail.partition('.')[2]}"
    return name


def is_adapter(name: str) -> bool:
    """Whether a tensor belongs to an adapter (LoRA, DoRA), or is the untrained original beside a trained copy."""
    return "original_module" in name or ("lora_" in name and any(part.startswith("lora_") for part in name.split(".")))
