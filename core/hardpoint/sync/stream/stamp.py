"""`stamp_of`: which update the bytes on a link belong to, sent ahead of them; the ports of NCCL and gloo ask nobody."""

from __future__ import annotations

import hashlib

import torch

from hardpoint.errors import SyncError
from hardpoint.sync.stream.memory import host_memory

STAMP_BYTES = 64  # the alignment of a bucket
_MARK = b"hardpoint stream 1\n"


def stamp_of(session: str, epoch: int, plan_digest: str) -> bytes:
    """64 bytes that are equal only for the same session, epoch and plan."""
    return hashlib.blake2b(_MARK + f"{session}\n{epoch}\n{plan_digest}".encode(), digest_size=STAMP_BYTES).digest()


def stamp_tensor(stamp: bytes) -> torch.Tensor:
    """`stamp` as flat uint8. SyncError if it is not one."""
    if len(stamp) != STAMP_BYTES:
        raise SyncError(f"A stamp has {STAMP_BYTES} bytes, found {len(stamp)}; make it with stamp_of.")
    return torch.frombuffer(bytearray(stamp), dtype=torch.uint8)


def stamp_memory(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Room for one stamp on the host and on `device`."""
    return host_memory(STAMP_BYTES, device), torch.empty(STAMP_BYTES, dtype=torch.uint8, device=device)


def check_stamp(found: torch.Tensor, expected: bytes, rank: int) -> None:
    """Refuse bytes of another session; `found` is on the host.

    Raises:
        SyncError: the stamps differ.
    """
    if found.numpy().tobytes() != expected:
        raise SyncError(
            f"What arrives at rank {rank} belongs to another update than the one that was agreed on: session, epoch or "
            "plan differ. Begin again, over a new link."
        )
