"""A trainer or a receiver as a process of its own, that is told what to do over a pipe and may be told to fail.

The main thread answers the test; the sync runs beside it, as it does in an engine.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from hardpoint import sync
from hardpoint.communicator import Rendezvous, TorchCommunicator
from hardpoint.errors import SyncError
from hardpoint.sync.plan import Storages, SyncPlan
from hardpoint.sync.remote import DataPlane, ReceiverLink, TrainerLink
from hardpoint.sync.stream import CommunicatorLink, open_link
from hardpoint.sync.transaction import Choice, MemoryRecord, Message, Mode, Participant, Room
from hardpoint.sync.transaction.messages import Ballots, Begin, Decide, Outgoing, Stream, Verify
from hardpoint.sync.transaction.record import Decision
from support.gloo import open_gloo
from support.transaction_cluster import contents, empty, expected, fill, plan_of, tensors

NAME = "world"
HOST = "127.0.0.1"  # of the trainer
BUCKET_BYTES = 128

STRIKES: dict[str, Callable[[], None]] = {}
"""Further kinds of faults, of processes that have them."""


class Trigger:
    """Strikes this process when it comes to `point` for the `number`th time."""

    def __init__(self) -> None:
        self.point, self.number, self.kind = "", 1, ""
        self._count = 0
        self.tell: Callable[[float], None] = lambda now: None

    def plant(self, point: str, number: int, kind: str) -> None:
        self.point, self.number, self.kind, self._count = point, number, kind, 0

    def at(self, point: str) -> None:
        if point != self.point:
            return
        self._count += 1
        if self._count != self.number:
            return
        self.tell(time.time())
        if self.kind in STRIKES:
            STRIKES[self.kind]()
        elif self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.kind == "hang":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.kind == "slow":
            time.sleep(0.3)
        elif self.kind == "raise":
            raise MemoryError(f"planted at {point}")


class TriggeredStorages(Storages):
    """Storages that pass the points of a rank."""

    trigger: Trigger

    def like(self) -> TriggeredStorages:
        made = super().like()
        assert isinstance(made, TriggeredStorages)
        made.trigger = self.trigger
        return made

    def copy_from(self, other: Storages) -> None:
        self.trigger.at("decided")
        self.tensors[0].view(torch.uint8).copy_(other.tensors[0].view(torch.uint8))
        self.trigger.at("half copied")
        super().copy_from(other)


class Hooks:
    """An engine that only remembers whether it runs."""

    def __init__(self, trigger: Trigger, running: bool) -> None:
        self._trigger = trigger
        self.running = running

    def room(self) -> Room:
        self._trigger.at("begin")
        return Room(1 << 30, 1 << 30)

    def chosen(self, choice: Choice) -> None:
        pass

    def pause(self) -> None:
        self.running = False
        self._trigger.at("paused")

    def inspect(self, staged: Storages) -> None:
        self._trigger.at("inspect")

    def committed(self, epoch: int) -> None:
        self._trigger.at("committed")

    def resume(self) -> None:
        self._trigger.at("resume")
        self.running = True


class PassingParticipant(Participant):
    """Passes the points that lie between messages."""

    trigger: Trigger

    def receive(self, message: Message, now: float) -> list[Outgoing]:
        if isinstance(message, Decide) and message.commit:
            self.trigger.at("decision heard")
        return super().receive(message, now)


class PassingLink(ReceiverLink):
    """Strikes after a vote has left."""

    trigger: Trigger

    def _post(self, outgoing: Any) -> None:
        sent = list(outgoing)
        super()._post(sent)
        for _, message in sent:
            if isinstance(message, Ballots) and not message.no:
                self.trigger.at(f"voted {message.step.value}")


class Receiver:
    """One rank that serves."""

    def __init__(self, rank: int, world: str, layout: str, epoch: int) -> None:
        self.rank, self.world, self.layout = rank, world, layout
        self.trigger = Trigger()
        plan = plan_of(world, layout, BUCKET_BYTES)
        self.storages = TriggeredStorages(plan, rank, empty(plan, rank))
        self.storages.trigger = self.trigger
        if epoch >= 0:
            fill(self.storages, expected(world, layout, 0)[rank])
        self.hooks = Hooks(self.trigger, epoch >= 0)
        self.participant = PassingParticipant(self.storages, epoch=epoch, hooks=self.hooks, arity=2)
        self.participant.trigger = self.trigger
        self.link: PassingLink | None = None

    def join(self, port: int) -> None:
        if self.link is not None:
            self.link.close()
            self.participant = PassingParticipant(self.storages, hooks=self.hooks, arity=2, after=self.participant)
            self.participant.trigger = self.trigger
        store = sync.join_store(HOST, port, deadline=10.0).store
        PassingLink.trigger = self.trigger
        self.link = PassingLink(self.participant, store, NAME, plane(store, self.rank, self.trigger))

    def state(self, *versions: int) -> dict[str, Any]:
        who = self.participant
        return {
            "phase": who.phase.value,
            "epoch": who.epoch,
            "may_serve": who.may_serve,
            "running": self.hooks.running,
            "reason": who.reason,
            "holds": [
                version
                for version in versions
                if contents(self.storages) == expected(self.world, self.layout, version)[self.rank]
            ],
            "addresses": [tensor.data_ptr() for tensor in self.storages.tensors],
        }


class PassingRecord(MemoryRecord):
    trigger: Trigger

    def write(self, decision: Decision) -> None:
        self.trigger.at("deciding")
        super().write(decision)
        self.trigger.at("decided")


class PassingTrainer(TrainerLink):
    trigger: Trigger

    def _post(self, outgoing: Any) -> None:
        sent = list(outgoing)
        if any(isinstance(message, Decide) for _, message in sent):
            self.trigger.at("telling")
        super()._post(sent)
        for kind, point in ((Begin, "begun"), (Stream, "opened"), (Verify, "asked"), (Decide, "told")):
            if any(isinstance(message, kind) for _, message in sent):
                self.trigger.at(point)


class Trainer:
    """The trainer's process; it serves the store."""

    def __init__(self, world: str, layout: str) -> None:
        self.plan: SyncPlan = plan_of(world, layout, BUCKET_BYTES)
        self.trigger = Trigger()
        self.meeting = sync.serve_store(HOST, deadline=10.0)
        record = PassingRecord()
        record.trigger = self.trigger
        self.link = PassingTrainer(self.meeting.store, NAME, plane(self.meeting.store, 0, self.trigger), record=record)
        self.link.trigger = self.trigger

    def update(self, epoch: int, version: int, mode: str, deadline: float) -> dict[str, Any]:
        began = time.time()
        try:
            outcome = self.link.update(self.plan, epoch, tensors(version), mode=Mode(mode), deadline=deadline)
        except (SyncError, MemoryError) as error:
            return {"committed": None, "everywhere": False, "reason": f"{type(error).__name__}: {error}", "missing": [],
                    "began": began, "ended": time.time()}  # fmt: skip
        return {
            "committed": outcome.committed,
            "everywhere": outcome.everywhere,
            "reason": outcome.reason,
            "missing": list(outcome.missing),
            "objections": sorted(outcome.objections),
            "began": began,
            "decided": began + outcome.seconds,
            "ended": time.time(),
        }


def plane(store: Any, rank: int, trigger: Trigger) -> DataPlane:
    def factory(at: Rendezvous) -> TorchCommunicator:
        return open_gloo(at.store, at.rank, at.world_size, at.deadline, at.name)

    def opened(name: str, audiences: tuple[tuple[int, ...], ...], deadline: float) -> CommunicatorLink:
        return open_link(factory, store.clone(), rank, audiences, name=name, deadline=deadline)

    return DataPlane(opened, on_bucket=lambda bucket: trigger.at("bucket"))


def serve(pipe: Connection, role: str, arguments: tuple[Any, ...]) -> None:
    """Answer the test until it hangs up."""
    torch.set_num_threads(1)
    who: Any = Trainer(*arguments) if role == "trainer" else Receiver(*arguments)
    asks: dict[str, Callable[..., Any]] = {
        "port": lambda: who.meeting.port,
        "join": lambda port: who.join(port),
        "plant": who.trigger.plant,
        "update": lambda *a: who.update(*a),
        "state": lambda *a: who.state(*a),
    }
    talking = threading.Lock()

    def say(kind: str, value: Any) -> None:
        with talking:
            pipe.send((kind, value))

    who.trigger.tell = functools.partial(say, "struck")
    say("ready", os.getpid())
    while True:
        try:
            name, given = pipe.recv()
        except EOFError:
            os._exit(0)
        try:
            say("ok", asks[name](*given))
        except Exception as error:  # noqa: BLE001 - the test judges it
            say("error", f"{type(error).__name__}: {error}")
