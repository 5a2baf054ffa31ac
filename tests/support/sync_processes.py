"""Ranks of a weight update as real processes over gloo, with a fault at a chosen place. They end with the test."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch

from hardpoint.backend import Capabilities
from hardpoint.communicator import Communicator, Rendezvous
from hardpoint.communicator.factory import communicator_factory
from hardpoint.communicator.transport import GLOO_DTYPES, GLOO_REDUCE_OPS
from hardpoint.sync import Manifest, Progress, Receiver, Sender, join_store, serve_store

DEADLINE = 4.0
BUCKET = 4096

# Children are forked from a server that has imported torch and started nothing: they are there in milliseconds.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torch", "torch.distributed", "hardpoint.sync", "support.sync_processes"])


@dataclass(frozen=True)
class Fault:
    """What goes wrong on `rank` at `bucket`: ``kill``, ``hang``, ``raise``, ``corrupt`` or ``other-manifest``."""

    kind: str = ""
    rank: int = -1
    bucket: int = 0


@dataclass(frozen=True)
class End:
    """How a rank ended: its outcome's fields and what it staged, or the sentence of what it raised."""

    outcome: dict[str, Any] = field(default_factory=dict)
    right: bool = False
    error: str = ""
    seconds: float = 0.0


def weights(seed: int) -> dict[str, torch.Tensor]:
    """Six tensors, about 20 kB, so five buckets."""
    random = torch.Generator().manual_seed(seed)
    return {f"layer.{n}.weight": torch.randn(17 + n, 53, generator=random) for n in range(5)} | {
        "bias": torch.randn(7, generator=random).bfloat16()
    }


def open_gloo(host: str, port: int, rank: int, world_size: int, name: str = "weights") -> Communicator:
    """Rank `rank` of a group over gloo, met at the store on `host`:`port`."""
    meeting = join_store(host, port, deadline=20.0)
    return gloo(Rendezvous(meeting.store, rank, world_size, name=name, deadline=20.0))


def gloo(rendezvous: Rendezvous) -> Communicator:
    """Communicator factory over gloo, of no particular backend."""
    capabilities = Capabilities(
        dtypes=frozenset({"float32"}), communication_dtypes=GLOO_DTYPES, reduce_ops=GLOO_REDUCE_OPS
    )
    return communicator_factory("cpu", capabilities, library="gloo")(rendezvous)


@contextmanager
def receiving_process(init_info: dict[str, Any], updates: int) -> Iterator[Connection]:
    """A process that joins with a publisher's `init_info` and takes `updates` updates.

    The connection gives, for each, ``(committed, reason, {name: tensor as nested lists})``.
    """
    ours, theirs = _context.Pipe()
    process = _context.Process(target=_receive, args=(theirs, init_info, updates), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.kill()
        process.join(10)


def _receive(pipe: Connection, init_info: dict[str, Any], updates: int) -> None:
    torch.set_num_threads(1)
    info = init_info
    communicator = open_gloo(info["host"], info["port"], info["rank_offset"], info["world_size"], info["name"])
    receiver = Receiver(communicator)
    for _ in range(updates):
        received = receiver.receive(20.0)
        tensors = {name: tensor.tolist() for name, tensor in received.tensors.items()}
        pipe.send((received.outcome.committed, received.outcome.reason, tensors))
    pipe.poll(20)  # until the test is done with the group


def run_update(
    world_size: int, fault: Fault | None = None, *, epochs: int = 1, survivors_only: bool = False
) -> list[End | None]:
    """One group, `epochs` updates one after the other (the fault strikes in the last); the last end per rank.

    None for a rank that died, and with `survivors_only` for the one that the fault strikes: it is not waited for.
    """
    meeting = serve_store()
    with _children(world_size) as children:
        for rank, (pipe, process) in enumerate(children):
            pipe.send((meeting.host, meeting.port, rank, world_size, fault or Fault(), epochs))
            assert process.pid is not None
        limit = time.monotonic() + 40
        left_out = fault.rank if fault is not None and survivors_only else -1
        return [
            None if rank == left_out else _end(pipe, process, limit) for rank, (pipe, process) in enumerate(children)
        ]


@contextmanager
def _children(count: int) -> Iterator[list[tuple[Connection, Any]]]:
    children = []
    try:
        for _ in range(count):
            ours, theirs = _context.Pipe()
            process = _context.Process(target=_child, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            children.append((ours, process))
        yield children
    finally:
        for _, process in children:
            process.kill()
            process.join(10)


def _end(pipe: Connection, process: Any, limit: float) -> End | None:
    while time.monotonic() < limit:
        try:
            if pipe.poll(0.1):
                end: End = pipe.recv()
                return end
        except EOFError:
            return None
        if not process.is_alive() and not pipe.poll(0):
            return None
    raise AssertionError(f"rank process {process.pid} neither answered nor ended")


def _child(pipe: Connection) -> None:
    torch.set_num_threads(1)
    host, port, rank, world_size, fault, epochs = pipe.recv()
    communicator = open_gloo(host, port, rank, world_size)
    end = End()
    for epoch in range(1, epochs + 1):
        striking = fault if epoch == epochs and fault.rank == rank else Fault()
        end = _update(communicator, epoch, striking)
    pipe.send(end)
    time.sleep(0.2)  # until the parent has read it; the group goes down with the process


def _update(communicator: Communicator, epoch: int, fault: Fault) -> End:
    tensors = weights(epoch)
    started = time.monotonic()

    def strike(progress: Progress) -> None:
        if progress.buckets_done == fault.bucket + 1:
            _strike(fault.kind)

    try:
        if communicator.rank == 0:
            manifest = Manifest.of(epoch, tensors, BUCKET)
            outcome = Sender(communicator).send(manifest, tensors, strike, deadline=DEADLINE)
            right = outcome.committed
        else:
            receiver = Receiver(_Corrupting(communicator, fault), committed_epoch=epoch - 1)
            received = receiver.receive(DEADLINE, progress=strike)
            outcome = received.outcome
            right = outcome.committed and all(torch.equal(received.tensors[name], tensors[name]) for name in tensors)
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return End(error=f"{type(error).__name__}: {error}", seconds=time.monotonic() - started)
    fields = {
        name: getattr(outcome, name) for name in ("committed", "step", "reason", "missing", "tensors", "undecided")
    }
    fields["objections"] = dict(outcome.objections)
    return End(fields, right, "", time.monotonic() - started)


def _strike(kind: str) -> None:
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "hang":
        time.sleep(60)
    if kind == "raise":
        raise ValueError("planted")


class _Corrupting:
    """A communicator that flips one bit of bucket `fault.bucket` after it arrived, or of the manifest."""

    def __init__(self, communicator: Communicator, fault: Fault) -> None:
        self._communicator = communicator
        self._fault = fault
        self._broadcasts = 0

    def broadcast(self, tensor: torch.Tensor, /, *, src: int, deadline: float | None = None) -> None:
        self._communicator.broadcast(tensor, src=src, deadline=deadline)
        index, self._broadcasts = self._broadcasts, self._broadcasts + 1
        if self._fault.kind == "corrupt" and index == self._fault.bucket + 2:
            tensor[-1] ^= 1
        if self._fault.kind == "other-manifest" and index == 1:
            place = bytes(tensor.tolist()).index(b"[17,") + 1
            tensor[place] += 1  # another shape of the first tensor: well formed, and not what the sender means

    def __getattr__(self, name: str) -> Any:
        return getattr(self._communicator, name)
