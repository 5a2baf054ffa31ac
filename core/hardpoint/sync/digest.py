"""Digest of a tensor that changes when values move: computed where the tensor is, from its words and their positions.

Each chunk of 2^18 32-bit words gives ``sum(m[i] * word[i]) mod 2^64`` with fixed odd 64-bit multipliers ``m``; the
sums, the shape and the dtype go through BLAKE2b on the host. One changed word always changes the digest. Two words
swapped in a chunk can go unseen only where ``m[i] - m[j]`` ends in 32 zero bits or more, about one pair of positions in
2^32, and several changes at once have the 2^-32 chance of multilinear hashing. It finds accidents, not forgers: the
multipliers are public.
"""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache

import torch

from hardpoint.sync.dtypes import dtype_name

DIGEST_BYTES = 16
CHUNK_WORDS = 1 << 18
_GOLDEN = 0x9E3779B97F4A7C15


def tensor_digest(tensor: torch.Tensor) -> bytes:
    """16 bytes that depend on shape, dtype and every value at its place. Reads the tensor once; 5 MiB of scratch.

    Bit patterns count: -0.0 differs from 0.0, and NaNs with different payloads differ.
    """
    raw = byte_view(tensor.detach())
    whole = raw.numel() // 4 * 4
    words = _words(raw[:whole])
    sums = [_chunk_sum(words[start : start + CHUNK_WORDS]) for start in range(0, words.numel(), CHUNK_WORDS)]
    if whole < raw.numel():
        tail = torch.zeros(4, dtype=torch.uint8, device=raw.device)
        tail[: raw.numel() - whole] = raw[whole:]
        sums.append(_chunk_sum(tail.view(torch.int32)))
    values = torch.stack(sums).tolist() if sums else []  # one transfer to the host for the whole tensor
    return sums_digest(f"{dtype_name(tensor.dtype)}{list(tensor.shape)}", struct.pack(f"<{len(values)}q", *values))


def sums_digest(head: str, sums: bytes | memoryview) -> bytes:
    """Digest of a tensor whose chunk sums are known, as little-endian int64. `head`: dtype and shape, ``uint8[8]``."""
    state = hashlib.blake2b(head.encode(), digest_size=DIGEST_BYTES)
    state.update(sums)
    return state.digest()


def byte_view(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor as flat uint8; a view if it is contiguous, else of a contiguous copy."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _words(raw: torch.Tensor) -> torch.Tensor:
    # A view of a larger storage may start at an odd byte: int32 needs a multiple of 4.
    aligned = raw if raw.storage_offset() % 4 == 0 and raw.data_ptr() % 4 == 0 else raw.clone()
    return aligned.view(torch.int32)


def _chunk_sum(words: torch.Tensor) -> torch.Tensor:
    return (words.to(torch.int64) * multipliers(words.device)[: words.numel()]).sum()


@lru_cache(maxsize=16)
def multipliers(device: torch.device) -> torch.Tensor:
    """The fixed odd int64 multipliers of a chunk's words, ``[CHUNK_WORDS]``; do not write to them."""
    return _host_multipliers().to(device)


@lru_cache(maxsize=1)
def _host_multipliers() -> torch.Tensor:
    values = []
    state = 0
    for _ in range(CHUNK_WORDS):  # splitmix64: every process gets the same sequence, whatever its torch version
        state = (state + _GOLDEN) & 0xFFFFFFFFFFFFFFFF
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        z = (z ^ (z >> 31)) | 1
        values.append(z - (1 << 64) if z >= 1 << 63 else z)
    return torch.tensor(values, dtype=torch.int64)
