"""Digest of a bucket: at the trainer of what it packed from its tensors, at a receiver of what its storages hold."""

from __future__ import annotations

import torch

from hardpoint.sync.digest import tensor_digest
from hardpoint.sync.plan import Bucket, Storages
from hardpoint.sync.plan.execute import new_buffer


def payload_digest(payload: torch.Tensor) -> bytes:
    """16 bytes that depend on every byte of the packed bucket and on its place."""
    return tensor_digest(payload)


def stored_digest(storages: Storages, bucket: Bucket) -> bytes:
    """The same, of what `storages` hold where `bucket` was to land: read back through the inverse layout.

    A receiver whose shard takes a box twice (tied weights) reads each landing; both have to be right.
    """
    first: bytes | None = None
    for landing in range(storages.repeats(bucket)):
        buffer = new_buffer(bucket, storages.device)
        storages.collect(bucket, buffer, landing)
        found = payload_digest(buffer)
        if first is not None and found != first:
            return b"landings differ"
        first = found
    return first or b""
