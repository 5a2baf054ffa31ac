"""The bucket plan: which bytes of which tensor lie where in which flat uint8 bucket. Pure, the same on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hardpoint.errors import SyncError

ALIGNMENT = 64  # a cache line, and the widest vector load of the accelerators at hand


@dataclass(frozen=True)
class Piece:
    """`nbytes` of tensor number `tensor` from byte `tensor_offset`, at byte `bucket_offset` of the bucket."""

    tensor: int
    tensor_offset: int
    bucket_offset: int
    nbytes: int


@dataclass(frozen=True)
class Bucket:
    """One message. `nbytes` counts payload with the alignment gaps, which hold no data."""

    index: int
    nbytes: int
    pieces: tuple[Piece, ...]


def plan_buckets(sizes: Sequence[int], bucket_bytes: int, alignment: int = ALIGNMENT) -> tuple[Bucket, ...]:
    """Lay tensors of `sizes` bytes into buckets, in order. A tensor may span several; each byte lies in exactly one.

    Every piece starts at a multiple of `alignment` in its bucket. Tensors without bytes take no piece.

    Raises:
        SyncError: a negative size, or a bucket size that is not a positive multiple of `alignment`.
    """
    if alignment < 1 or bucket_bytes < alignment or bucket_bytes % alignment:
        raise SyncError(f"A bucket must hold a positive multiple of {alignment} bytes, found {bucket_bytes}.")
    buckets: list[Bucket] = []
    pieces: list[Piece] = []
    used = 0

    def flush() -> None:
        nonlocal used
        if pieces:
            buckets.append(Bucket(len(buckets), used, tuple(pieces)))
            pieces.clear()
        used = 0

    for tensor, size in enumerate(sizes):
        if size < 0:
            raise SyncError(f"Tensor number {tensor} cannot have {size} bytes.")
        done = 0
        while done < size:
            start = -(-used // alignment) * alignment
            if start >= bucket_bytes:
                flush()
                start = 0
            count = min(size - done, bucket_bytes - start)
            pieces.append(Piece(tensor, done, start, count))
            done += count
            used = start + count
    flush()
    return tuple(buckets)


def last_bucket_of(buckets: Sequence[Bucket], tensors: int) -> list[int]:
    """For each tensor the index of the bucket that completes it, -1 if it has no bytes."""
    last = [-1] * tensors
    for bucket in buckets:
        for piece in bucket.pieces:
            last[piece.tensor] = bucket.index
    return last
