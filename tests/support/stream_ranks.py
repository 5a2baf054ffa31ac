"""Rank functions of stream tests: rank 0 sends a small model over gloo, others receive it and say what they hold."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from hardpoint import Capabilities
from hardpoint.communicator import GLOO_DTYPES, GLOO_REDUCE_OPS, communicator_factory
from hardpoint.device import HostDevice
from hardpoint.errors import HardpointError
from hardpoint.moe import LayoutDescriptor
from hardpoint.sync.plan import Coordinates, Offer, Sources, Storages, SyncPlan, make_plan
from hardpoint.sync.plan.execute import new_buffer
from hardpoint.sync.stream import StreamReceiver, StreamSender, Undo, audiences_of, open_link, stamp_of
from hardpoint.sync.transaction.digests import payload_digest
from support.plan_models import Small, Tensors

WORLDS = {
    "one receiver": {1: Coordinates()},
    "tp2": {rank: Coordinates(rank - 1, 2) for rank in (1, 2)},
    "ep2": {rank: Coordinates(rank - 1, 2, ep_rank=rank - 1, ep_size=2) for rank in (1, 2)},
    "pp2": {rank: Coordinates(pp_rank=rank - 1, pp_size=2) for rank in (1, 2)},
}


@dataclass(frozen=True)
class Case:
    """One update. `fault`: (rank, bucket) whose `on_bucket` raises."""

    world: str
    order: str = "w13"
    axes: str = "[E,N,K]"
    padded: int | None = None
    tied: bool = False
    bucket_bytes: int = 1024
    least: int = 256
    mode: str = "shadow"
    fault: tuple[int, int] | None = None
    stamp: str = "session"


class Planted(Exception):
    """A fault that a test put there."""


def model(case: Case) -> Small:
    layout = LayoutDescriptor(
        6, 8, 4, dtype=torch.bfloat16, order=case.order, axes=case.axes, padded_intermediate=case.padded
    )  # type: ignore[arg-type]
    return replace(Small(tied=case.tied), experts=layout)


def plan_of(case: Case) -> SyncPlan:
    spec = model(case).spec()
    return make_plan(
        Offer.of(model(case).tensors()),
        spec.receivers(WORLDS[case.world]),
        ignored=spec.ignored,
        bucket_bytes=case.bucket_bytes,
    )


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def digests_of(plan: SyncPlan, tensors: Tensors) -> tuple[bytes, ...]:
    """As the transaction's own code makes them."""
    found = []
    for bucket in plan.buckets:
        buffer = new_buffer(bucket)
        Sources(plan, tensors).pack(bucket, buffer)
        found.append(payload_digest(buffer))
    return tuple(found)


def live_storages(plan: SyncPlan, rank: int) -> Storages:
    parameters = {
        of.parameter: torch.full((torch.Size(of.shape).numel() * getattr(torch, of.dtype).itemsize,), 0x5A,
                                 dtype=torch.uint8).view(getattr(torch, of.dtype)).reshape(of.shape)
        for of in plan.destinations_for(rank)
    }  # fmt: skip
    return Storages(plan, rank, parameters)


def update(store: Any, rank: int, world: int, case: Case, versions: int, deadline: float) -> dict[str, Any]:
    """Send or receive `versions` updates; what this rank holds after the last, and what went wrong."""
    plan = plan_of(case)
    link = open_link(
        communicator_factory("cpu", _gloo(), library="gloo"),
        store,
        rank,
        audiences_of(plan),
        name=f"stream {case}",
        deadline=20.0,
    )
    digests: Any = None
    error: str = ""
    began = time.monotonic()
    storages = live_storages(plan, rank) if rank else None
    before = {name: bits(tensor) for name, tensor in storages.named.items()} if storages is not None else {}
    undo = Undo(storages, HostDevice()) if storages is not None and case.mode == "undo" else None

    def watched(bucket: Any) -> None:
        if case.fault == (rank, bucket.index):
            raise Planted(f"rank {rank} fails after bucket {bucket.index}")

    try:
        if storages is None:
            sender = StreamSender(plan, link, HostDevice(), least=case.least)
            for version in range(versions):
                sender.prepare(Sources(plan, model(case).tensors(version)))
                digests = sender.send(stamp_of("session", version, plan.digest), deadline=deadline, on_bucket=watched)
        else:
            target = storages.like() if case.mode == "shadow" else storages
            receiver = StreamReceiver(plan, rank, link, HostDevice(), least=case.least)
            receiver.prepare(target)
            for version in range(versions):
                digests = receiver.receive(
                    stamp_of(case.stamp, version, plan.digest),
                    deadline=deadline,
                    in_place=case.mode != "shadow",
                    keeper=undo,
                    on_bucket=watched,
                )
            target.clear_padding()
            if target is not storages:
                storages.copy_from(target)
    except (HardpointError, Planted) as found:
        error = f"{type(found).__name__}: {found}"
        if undo is not None:
            undo.restore()
    seconds = time.monotonic() - began
    link.close()
    held = {name: bits(tensor) for name, tensor in storages.named.items()} if storages is not None else {}
    return {"held": held, "before": before, "digests": digests, "error": error, "seconds": seconds}


def updates(store: Any, rank: int, world: int, cases: list[Case], versions: int, deadline: float) -> list[Any]:
    """`update` for each case in turn."""
    return [update(store, rank, world, case, versions, deadline) for case in cases]


def _gloo() -> Capabilities:
    return Capabilities(dtypes=frozenset(), communication_dtypes=GLOO_DTYPES, reduce_ops=GLOO_REDUCE_OPS)
