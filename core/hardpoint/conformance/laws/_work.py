"""Work that takes a device a while, and host buffers that show whether somebody waited for it."""

from __future__ import annotations

import time
from typing import Any

import torch

from hardpoint.conformance.context import LawContext

_SIDE = 128
_WANTED_SECONDS = 0.02
_MOST = 200


def keep_busy(context: LawContext, index: int | None = None) -> None:
    """Queue some 20 ms of work on the current stream; what is queued after it is late wherever streams run late.

    A backend that runs eagerly does it at once, which is legal.
    """
    value = context.full(_SIDE, _SIDE, value=1.0, index=index)
    place = context.device_index if index is None else index
    context.backend.device.synchronize(place)
    begin = time.monotonic()
    value @ value
    context.backend.device.synchronize(place)
    once = max(time.monotonic() - begin, 1e-5)
    for _ in range(max(2, min(_MOST, int(_WANTED_SECONDS / once)))):
        value = value @ value * 0.0 + 1.0


def host_buffer(context: LawContext, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Host memory full of -1 for a copy that does not wait; pinned where the backend's torch can pin."""
    plain = torch.full(shape, -1.0).to(dtype)
    if context.backend.device.type == "cpu":
        return plain
    try:
        return plain.pin_memory()
    except (RuntimeError, NotImplementedError):
        return plain  # a copy into pageable memory may wait by itself, which is legal


def late_result(context: LawContext, stream: Any, value: float, *, index: int | None = None) -> torch.Tensor:
    """On `stream`: a while of work, then four elements of `value` into a host buffer, without waiting. The buffer."""
    buffer = host_buffer(context, 4)
    source = context.full(4, value=0.0, index=index)
    context.backend.device.synchronize(context.device_index if index is None else index)
    with context.backend.device.use_stream(stream):
        keep_busy(context, index)
        source += value
        buffer.copy_(source, non_blocking=True)
    # The source has to outlive the copy, and the caller holds only the buffer.
    buffer.kept = source  # type: ignore[attr-defined]
    return buffer


def complete(buffer: torch.Tensor, value: float) -> bool:
    """Whether the copy has arrived in full."""
    return buffer.tolist() == [value] * buffer.numel()
