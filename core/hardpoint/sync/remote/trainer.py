"""`TrainerLink`: a `Coordinator` in the trainer's process. Updates run in the caller's thread, with its streams and its
tensors; between them a thread answers those who ask how an update ended."""

from __future__ import annotations

import functools
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import torch

from hardpoint.errors import SyncError
from hardpoint.sync.plan import SyncPlan
from hardpoint.sync.remote.data import DataPlane, Sending, StreamOf
from hardpoint.sync.remote.loop import Loop
from hardpoint.sync.remote.mailbox import Mailbox
from hardpoint.sync.transaction.coordinator import Coordinator, Outcome, Stage, answer
from hardpoint.sync.transaction.messages import Ask, Decide, Message, Outgoing
from hardpoint.sync.transaction.mode import Mode
from hardpoint.sync.transaction.record import Decision, DecisionRecord, MemoryRecord
from hardpoint.sync.transaction.wire import decode, encode

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_logger = logging.getLogger("hardpoint.sync")
_SLICE = 1.0


class TrainerLink:
    """Sends updates to all receivers of a plan. Not for two threads at once.

    Args:
        store: that all receivers reach.
        name: of the group on that store.
        address: where answers go; no receiver's rank.
        record: where decisions are written; `FileRecord` outlives this process.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        plane: DataPlane,
        *,
        address: int = 0,
        record: DecisionRecord | None = None,
    ) -> None:
        self._plane = plane
        self._record: DecisionRecord = record or MemoryRecord()
        self._address = address
        self._node = _Answers(self._record, address)
        self._met: dict[int, str] = {}
        self._loop = Loop(self._node, self._post)
        self._mail = Mailbox(store, name, address, self._arrived, self._store_lost)
        self.lost = ""
        self._ending = False
        self._wanted = threading.Event()  # an update wants the loop
        self._mine = threading.Event()  # and has it
        self._idle = threading.Event()  # it gives it back
        self._thread = threading.Thread(target=self._answer, name="hardpoint-sync-trainer", daemon=True)
        self._thread.start()

    def update(
        self,
        plan: SyncPlan,
        epoch: int,
        named_tensors: Mapping[str, torch.Tensor],
        *,
        mode: Mode = Mode.AUTO,
        deadline: float = 60.0,
        session: str = "",
    ) -> Outcome:
        """Take one update through, and return how it ended; every rank has been told by then, or is named.

        Raises:
            SyncError: the tensors are not those of the plan; nothing was sent.
        """
        session = session or secrets.token_hex(16)
        coordinator = Coordinator(plan, self._address, record=self._record)
        self._take_over()
        try:
            self._notice_newcomers(plan)
            self._node.active = coordinator
            self._run(coordinator, session, epoch, named_tensors, mode, deadline)
        except BaseException:
            self._call_off(coordinator, session, epoch)
            raise
        finally:
            if coordinator.outcome is None or not coordinator.outcome.everywhere:
                self._plane.drop()  # receivers may be anywhere in it, or gone
            self._node.active = None
            self._give_back()
        assert coordinator.outcome is not None
        return coordinator.outcome

    def refuse(self, ranks: Iterable[int], epoch: int, reason: str) -> None:
        """Tell receivers that an update they may wait for does not come, and why. No vote: nothing was begun."""
        self._mail.forget()
        word = encode(Decide(secrets.token_hex(16), self._address, epoch, False, reason))
        for rank in ranks:
            self._mail.send(rank, word)

    def close(self) -> None:
        """End the thread. Ranks in doubt are answered no more. Idempotent."""
        self._ending = True
        self._loop.put(lambda: None)
        self._mail.close()
        self._thread.join(5.0)
        self._plane.close()

    def _notice_newcomers(self, plan: SyncPlan) -> None:
        """A rank that started again has no end of the old link."""
        self._mail.forget()
        found = self._mail.whereabouts(plan.shard_of)
        if found != self._met:
            self._plane.drop()
            self._met = found

    def _run(
        self,
        coordinator: Coordinator,
        session: str,
        epoch: int,
        named_tensors: Mapping[str, torch.Tensor],
        mode: Mode,
        deadline: float,
    ) -> None:
        plan = coordinator.plan
        lane = self._plane.name_for(plan)
        of = StreamOf(session, epoch, plan, deadline, mode is not Mode.OFF)
        first = coordinator.start(
            session, epoch, named_tensors, time.monotonic(), mode=mode, deadline=deadline, lane=lane
        )
        self._post(first)
        sending: Sending | None = None
        while coordinator.stage is not Stage.REST:
            if coordinator.stage is Stage.STREAM and sending is None:
                sending = Sending(
                    self._plane,
                    lane,
                    of,
                    coordinator.sources,
                    functools.partial(self._later, self._streamed, coordinator),
                    functools.partial(self._later, self._lost, coordinator),
                )
            self._loop.turn(_SLICE)

    def _streamed(self, coordinator: Coordinator, digests: tuple[bytes, ...]) -> None:
        if coordinator is self._node.active:
            self._post(coordinator.streamed(digests, time.monotonic()))

    def _lost(self, coordinator: Coordinator, why: str) -> None:
        if coordinator is self._node.active:
            self._post(coordinator.lost(f"the stream broke: {why}", time.monotonic()))

    def _call_off(self, coordinator: Coordinator, session: str, epoch: int) -> None:
        """Something raised in the caller's thread (a progress callback, Ctrl-C): nobody waits for the rest.

        A decision that was written stands, and is told to all; else this one is, and is written for who asks later.
        """
        if coordinator.stage is Stage.REST:
            return
        decision = self._record.read(session)
        if decision is None:
            decision = Decision(session, epoch, False, "the trainer broke off")
            try:
                self._record.write(decision)
            except Exception:  # what is not recorded is not committed all the same
                _logger.exception("hardpoint: the trainer: that epoch %d was called off", epoch)
        word = encode(Decide(session, self._address, epoch, decision.commit, decision.reason))
        for rank in coordinator.plan.shard_of:
            self._mail.send(rank, word)

    def _take_over(self) -> None:
        self._idle.clear()
        self._mine.clear()
        self._wanted.set()
        self._loop.put(lambda: None)
        if not self._mine.wait(5.0):
            self._give_back()  # it may only have been slow: it goes on answering then
            raise SyncError("The trainer's sync thread does not answer; make a new publisher.")

    def _give_back(self) -> None:
        self._wanted.clear()
        self._idle.set()

    def _answer(self) -> None:
        while not self._ending:
            if self._wanted.is_set():
                self._mine.set()
                self._idle.wait()
                continue
            try:
                self._loop.turn(None)
            except Exception:
                _logger.exception("hardpoint: the trainer's sync thread")

    def _arrived(self, data: bytes) -> None:
        self._loop.put(functools.partial(self._take, data))

    def _store_lost(self, why: str) -> None:
        self.lost = why

    def _later(self, what: Callable[..., None], *arguments: object) -> None:
        self._loop.put(functools.partial(what, *arguments))

    def _take(self, data: bytes) -> None:
        try:
            message = decode(data)
        except SyncError as error:
            _logger.warning("hardpoint: the trainer: %s", error)
            return
        self._post(self._node.receive(message, time.monotonic()))

    def _post(self, outgoing: Iterable[Outgoing]) -> None:
        for to, message in outgoing:
            self._mail.send(to, encode(message))


class _Answers:
    """The coordinator of the update under way; without one, only questions of those in doubt are answered."""

    def __init__(self, record: DecisionRecord, address: int) -> None:
        self.active: Coordinator | None = None
        self._record = record
        self._address = address

    def receive(self, message: Message, now: float) -> list[Outgoing]:
        if self.active is not None:
            return self.active.receive(message, now)
        return answer(message, self._record, self._address) if isinstance(message, Ask) else []

    def tick(self, now: float) -> list[Outgoing]:
        return [] if self.active is None else self.active.tick(now)

    @property
    def wake_at(self) -> float | None:
        return None if self.active is None else self.active.wake_at
