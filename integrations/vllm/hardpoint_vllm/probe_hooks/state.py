"""The state that a gated-delta-net layer of vLLM's is about to read: conv and recurrent, of each request of a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def state_read(module: Any, attn_metadata: Any) -> torch.Tensor | None:
    """``[requests, width]``: of each request, what its slots hold; zero for a request that has no state yet.

    None where the layer has no cache (profiling), no metadata, or no slots but those of speculative decoding, which are
    many per request and not scanned. Nothing waits for the device.

    `module` is a GDN layer: `prefix`, and `kv_cache`, conv state ``[slots, ...]`` and recurrent state ``[slots, ...]``
    (0.26 to 0.32, ``qwen_gdn_linear_attn.py``); slots are ``non_spec_state_indices_tensor`` of its metadata.
    """
    if isinstance(attn_metadata, list):
        attn_metadata = attn_metadata[0] if attn_metadata else None
    metadata = attn_metadata.get(getattr(module, "prefix", None)) if isinstance(attn_metadata, Mapping) else None
    slots = getattr(metadata, "non_spec_state_indices_tensor", None)
    caches = [each for each in getattr(module, "kv_cache", ()) or () if isinstance(each, torch.Tensor)]
    if slots is None or slots.dim() != 1 or not len(slots) or not caches or any(not len(each) for each in caches):
        return None
    there = slots >= 0
    started = getattr(metadata, "has_initial_state", None)  # None when all decode: then every request has state
    if started is not None and len(started) == len(slots):
        there = there & started.to(slots.device)
    rows = [each.index_select(0, slots.clamp(min=0)).flatten(1).float() for each in caches]
    every = torch.cat(rows, dim=1)
    return torch.where(there[:, None], every, torch.zeros_like(every))
