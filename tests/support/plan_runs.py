"""Plans carried out in memory, without a wire, and what is asked of the result."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import torch

from hardpoint.sync.plan import Coordinates, Sources, Storages, SyncPlan
from hardpoint.sync.plan.execute import new_buffer
from support.plan_models import Tensors


def parallel(tp: int, pp: int, ep: bool, dp: int) -> dict[int, Coordinates]:
    """Rank -> place; with `ep` the experts go over the tensor and data parallel ranks of a stage."""
    found: dict[int, Coordinates] = {}
    for stage, replica, rank in product(range(pp), range(dp), range(tp)):
        at = Coordinates(rank, tp, stage, pp, dp_rank=replica, dp_size=dp)
        if ep:
            at = replace(at, ep_rank=replica * tp + rank, ep_size=tp * dp)
        found[len(found) + 1] = at
    return found


def poisoned(plan: SyncPlan, rank: int) -> Tensors:
    found = {}
    for of in plan.destinations_for(rank):
        dtype = getattr(torch, of.dtype)
        found[of.parameter] = torch.full(of.shape, 0x5A, dtype=torch.uint8).repeat_interleave(dtype.itemsize, -1).view(
            dtype
        ) if of.shape else torch.tensor(0x5A5A, dtype=dtype)  # fmt: skip
    return found


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(
        a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8)
    )  # fmt: skip


def written_once(plan: SyncPlan, rank: int) -> bool:
    """Counted element by element over the finished plan, splits and padding included."""
    destinations = plan.destinations_for(rank)
    counts = [torch.zeros(max(1, torch.Size(of.shape).numel()), dtype=torch.int32) for of in destinations]
    for bucket in plan.buckets_for(rank):
        for _, move, landing in plan.landings(bucket, rank):
            for box in range(len(move.sources)):
                counts[landing.parameter].as_strided(
                    move.sizes, landing.strides, landing.offset + box * landing.step
                ).add_(1)
    for of, count in zip(destinations, counts, strict=True):
        for lows, sizes in of.zeros:
            start = sum(low * stride for low, stride in zip(lows, of.strides, strict=True))
            count.as_strided(sizes, of.strides, start).add_(1)
    sizes = [torch.Size(of.shape).numel() for of in destinations]
    return all(bool((count[:size] == 1).all()) for size, count in zip(sizes, counts, strict=True))


def run(plan: SyncPlan, tensors: Tensors) -> dict[int, Storages]:
    """Carry the plan out through its buckets, on poisoned storages."""
    sources = Sources(plan, tensors)
    storages = {rank: Storages(plan, rank, poisoned(plan, rank)) for rank in plan.shard_of}
    for storage in storages.values():
        storage.clear_padding()
    for bucket in plan.buckets:
        buffer = new_buffer(bucket)
        sources.pack(bucket, buffer)
        for rank in plan.audience(bucket):
            storages[rank].land(bucket, buffer)
    return storages
