"""What one rank of a simulator test does; importable, so that spawned processes find it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from hardpoint import Backend
from hardpoint.communicator import Communicator, Rendezvous
from hardpoint.errors import DeadlineExceeded
from hardpoint_sim.backend import build


def _open(store: dist.Store, rank: int, world: int, **options: Any) -> tuple[Backend, Communicator]:
    backend = build({"devices": 2, **options})
    rendezvous = Rendezvous(store, rank, world, name="test", deadline=30.0, device_index=1)
    return backend, backend.communicator(rendezvous)


def values(store: dist.Store, rank: int, world: int, seed: int) -> dict[str, list[float]]:
    """Every collective once, on sim:1, with inputs that are late work of the caller's current side stream."""
    backend, communicator = _open(store, rank, world, seed=seed)
    found: dict[str, torch.Tensor] = {}
    with backend.device.use_stream(backend.device.stream(1)):
        mine = torch.full((2,), float(rank), device="sim:1").add_(1)
        found["broadcast"] = mine.clone()
        communicator.broadcast(found["broadcast"], src=1)
        found["all_reduce"] = mine.clone()
        communicator.all_reduce(found["all_reduce"])
        found["all_gather"] = torch.empty(2 * world, device="sim:1")
        communicator.all_gather(found["all_gather"], mine)
        counts = [3, 0, 1, 2][:world]
        found["all_gather_ragged"] = torch.empty(sum(counts), device="sim:1")
        communicator.all_gather_ragged(
            found["all_gather_ragged"], torch.full((counts[rank],), 10.0 * rank, device="sim:1"), counts
        )
        found["reduce_scatter"] = torch.empty(1, device="sim:1")
        communicator.reduce_scatter(found["reduce_scatter"], torch.arange(float(world), device="sim:1") + rank)
        found["reduce_scatter_ragged"] = torch.empty(counts[rank], device="sim:1")
        communicator.reduce_scatter_ragged(
            found["reduce_scatter_ragged"], torch.ones(sum(counts), device="sim:1") * (rank + 1), counts
        )
        communicator.barrier()
        assert communicator.vote(True, "test").unanimous
        results = {name: tensor.tolist() for name, tensor in found.items()}
    communicator.close()
    return results


def plain_torch(store: dist.Store, rank: int, world: int) -> list[float]:
    """torch.distributed itself on simulated tensors: the silent no-op of a naive wrapper tensor."""
    build({})
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    try:
        tensor = torch.full((2,), float(rank), device="sim:1").add_(5)
        dist.broadcast(tensor, src=1)
        dist.all_reduce(tensor)
        return tensor.tolist()  # type: ignore[no-any-return]
    finally:
        dist.destroy_process_group()


def wrong_streams(store: dist.Store, rank: int, world: int) -> tuple[list[float], list[float]]:
    """Input computed on a stream that nobody waits for; output read on one that does not wait."""
    backend, communicator = _open(store, rank, world)
    side = backend.device.stream(1)
    with backend.device.use_stream(side):
        unready = torch.ones(2, device="sim:1").add_(1)
    communicator.all_reduce(unready)
    ready = torch.ones(2, device="sim:1")
    backend.device.synchronize(1)
    communicator.all_reduce(ready)
    with backend.device.use_stream(side):
        early = (ready * 1).tolist()
    backend.device.synchronize(1)
    communicator.close()
    return unready.tolist(), early


def one_rank_stays_away(store: dist.Store, rank: int, world: int) -> tuple[str, bool]:
    """Rank 0 alone calls a collective; its tensor is poison afterwards."""
    _, communicator = _open(store, rank, world)
    tensor = torch.ones(2, device="sim:1")
    if rank:
        store.wait(["rank 0 has given up"])
        communicator.close()
        return "", False
    text = ""
    try:
        communicator.all_reduce(tensor, deadline=1.0)
    except DeadlineExceeded as error:
        text = str(error)
    communicator.close()
    store.set("rank 0 has given up", "1")
    return text, bool(tensor.cpu().isnan().all())
