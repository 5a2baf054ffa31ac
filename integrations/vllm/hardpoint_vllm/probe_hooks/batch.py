"""The batch of a step from vLLM's runner, read from what the host has anyway: nothing waits for the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hardpoint.probe import Batch


def batch_of(runner: Any, attn_metadata: Any) -> Batch | None:
    """The batch of the forward pass that is about to run; None in warm-up and dummy runs, which have no metadata.

    `runner` is a `GPUModelRunner`: its buffer of `query_start_loc` and its `optimistic_seq_lens_cpu` are the host's
    copies. Without them (another runner) metadata on the host are read, and device ones are left alone.
    """
    metadata = _first(attn_metadata)
    if metadata is None:
        return None
    requests = getattr(getattr(runner, "input_batch", None), "num_reqs", 0)
    starts = getattr(getattr(runner, "query_start_loc", None), "np", None)
    lengths = getattr(runner, "optimistic_seq_lens_cpu", None)
    if starts is not None and lengths is not None:
        begin, length = starts[: requests + 1].tolist(), lengths[:requests].tolist()
    else:
        begin, length = _listed(metadata, "query_start_loc"), _listed(metadata, "seq_lens")
    if not begin:
        return None
    return Batch(int(metadata.num_actual_tokens), tuple(begin), tuple(length))


def _first(attn_metadata: Any) -> Any:
    """Of the layers' metadata (a mapping by layer, a list of such with microbatches) one that counts tokens."""
    if isinstance(attn_metadata, list):
        attn_metadata = attn_metadata[0] if attn_metadata else None
    if isinstance(attn_metadata, Mapping):
        return next((each for each in attn_metadata.values() if hasattr(each, "num_actual_tokens")), None)
    return attn_metadata if hasattr(attn_metadata, "num_actual_tokens") else None


def _listed(metadata: Any, name: str) -> list[int]:
    tensor = getattr(metadata, name, None)
    if tensor is None or tensor.device.type != "cpu":
        return []
    found: list[int] = tensor.tolist()
    return found
