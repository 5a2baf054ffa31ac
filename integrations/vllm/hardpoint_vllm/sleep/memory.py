"""Which tensors of a worker lie under which tag.

``weights``: parameters of the model and of a drafter. ``kv_cache``: attention and state-space caches. Buffers (rotary
tables and the like) stay where they are, as in vLLM: they are small, and no checkpoint brings them back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from hardpoint.lifecycle import MemoryMap

WEIGHTS, KV_CACHE = "weights", "kv_cache"
TAGS = (WEIGHTS, KV_CACHE)


def adopt(memory: MemoryMap, worker: Any) -> None:
    """Put what the worker holds now under its tags; what is there already stays."""
    memory.adopt(WEIGHTS, parameters(worker))
    memory.adopt(KV_CACHE, caches(worker))


def parameters(worker: Any) -> dict[str, torch.Tensor]:
    """Parameters by name; those of a drafter begin with ``draft.``. What both share comes once."""
    runner = worker.model_runner
    found = {name: parameter.data for name, parameter in runner.get_model().named_parameters()}
    drafter = getattr(getattr(runner, "drafter", None), "model", None)
    if isinstance(drafter, torch.nn.Module):
        known = {value.untyped_storage().data_ptr() for value in found.values()}
        for name, parameter in drafter.named_parameters():
            if parameter.untyped_storage().data_ptr() not in known:
                found[f"draft.{name}"] = parameter.data
    return {name: value for name, value in found.items() if value.numel()}


def caches(worker: Any) -> dict[str, torch.Tensor]:
    """The caches that the model runner allocated, by position: attention has one tensor a layer, GDN two."""
    held = getattr(worker.model_runner, "kv_caches", None) or []
    tensors = [leaf for leaf in tree_leaves(held) if isinstance(leaf, torch.Tensor) and leaf.numel()]
    return {f"cache.{number}": tensor for number, tensor in enumerate(tensors)}
