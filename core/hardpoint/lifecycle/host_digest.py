"""Digest of host memory that allocates nothing: what is measured while it sleeps may not grow by its own digest."""

from __future__ import annotations

import struct
import threading
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_lock = threading.Lock()


def storage_digest(storage: torch.UntypedStorage) -> str:
    """`hardpoint.sync.digest.tensor_digest` of the storage as uint8 ``[nbytes]``, in hex."""
    import torch

    from hardpoint.sync.digest import CHUNK_WORDS, multipliers, sums_digest

    raw = torch.empty(0, dtype=torch.uint8).set_(storage)
    whole = raw.numel() // 4 * 4
    words, factors, sums = raw[:whole].view(torch.int32), multipliers(raw.device), []
    with _lock:
        scratch = _scratch()
        for start in range(0, words.numel(), CHUNK_WORDS):
            chunk = words[start : start + CHUNK_WORDS]
            part = scratch[: chunk.numel()]
            part.copy_(chunk)
            sums.append(int(part.mul_(factors[: chunk.numel()]).sum()))
    if whole < raw.numel():
        last = int.from_bytes(bytes(raw[whole:].tolist()), "little", signed=False)
        sums.append(_wrapped(last * int(factors[0])))
    return sums_digest(f"uint8{list(raw.shape)}", struct.pack(f"<{len(sums)}q", *sums)).hex()


@lru_cache(maxsize=1)
def _scratch() -> torch.Tensor:
    import torch

    from hardpoint.sync.digest import CHUNK_WORDS

    return torch.empty(CHUNK_WORDS, dtype=torch.int64)


def _wrapped(value: int) -> int:
    """As int64 wraps around."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value
