"""A small message from one rank of the trainer to all of them: JSON in a tensor, nothing unpickled."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hardpoint.errors import SyncError

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist

LIMIT = 4096  # bytes of the message


def said_by_one(value: dict[str, Any] | None, group: dist.ProcessGroup | None = None) -> dict[str, Any] | None:
    """What the one rank of `group` that has something says, on every rank; a collective. Alone, `value` itself.

    Raises:
        SyncError: not exactly one rank has something, or it is too long.
    """
    import torch
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size(group) == 1:
        return value
    text = json.dumps(value).encode() if value is not None else b""
    if len(text) > LIMIT:
        raise SyncError(
            f"A message between ranks of the trainer takes at most {LIMIT} bytes as JSON, found {len(text)}."
        )
    device = _device_of(group)
    mine = torch.zeros(LIMIT + 4, dtype=torch.uint8)
    mine[: 4 + len(text)] = torch.frombuffer(bytearray(len(text).to_bytes(4, "little") + text), dtype=torch.uint8)
    every = [torch.empty(LIMIT + 4, dtype=torch.uint8, device=device) for _ in range(dist.get_world_size(group))]
    dist.all_gather(every, mine.to(device), group=group)
    messages = [bytes(one.cpu().tolist()) for one in every]
    given = [one[4 : 4 + int.from_bytes(one[:4], "little")] for one in messages if any(one[:4])]
    if len(given) != 1:
        raise SyncError(f"Exactly one rank of the trainer publishes, found {len(given)} of {len(messages)}.")
    said: dict[str, Any] = json.loads(given[0])
    return said


def _device_of(group: dist.ProcessGroup | None) -> torch.device:
    """Where the library of `group` has its tensors."""
    import torch
    import torch.distributed as dist

    accelerator = torch.accelerator.current_accelerator()
    if "gloo" in dist.get_backend(group) or accelerator is None:
        return torch.device("cpu")
    return torch.device(accelerator.type, torch.accelerator.current_device_index())
