"""`ReceiverLink`: a `Participant` on a rank, in a thread beside whatever the rank does."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from hardpoint.errors import SyncError
from hardpoint.sync.remote.data import DataPlane, Receiving, StreamOf
from hardpoint.sync.remote.loop import Loop
from hardpoint.sync.remote.mailbox import Mailbox
from hardpoint.sync.session import describe
from hardpoint.sync.transaction.messages import Begin, Message, Outgoing, Stream, Verify
from hardpoint.sync.transaction.mode import Mode
from hardpoint.sync.transaction.participant import Participant
from hardpoint.sync.transaction.phase import Phase
from hardpoint.sync.transaction.wire import decode, encode

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_logger = logging.getLogger("hardpoint.sync")
_SLICE = 1.0


class ReceiverLink:
    """Serves updates from now on, until `close`.

    A trainer that is gone is no reason to end: the participant's own deadlines say what becomes of an open update. A
    new trainer is met by a new link, with a participant that knows what the old one knew.

    Args:
        store: that the trainer and all receivers reach; connections of its own are made of it.
        name: of the group on that store.
        changed: called by the thread after whatever happened, for those who wait for the participant's state.
    """

    def __init__(
        self,
        participant: Participant,
        store: Store,
        name: str,
        plane: DataPlane,
        *,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.participant = participant
        self.lost = ""
        self._plane = plane
        self._changed = changed
        self._stream: Receiving | None = None
        self._streaming = ""  # session
        self._held: Verify | None = None
        self._ending = False
        self._loop = Loop(participant, self._post)
        self._mail = Mailbox(store, name, participant.rank, self._arrived, self._store_lost)
        self._thread = threading.Thread(target=self._run, name=f"hardpoint-sync-{participant.rank}", daemon=True)
        self._thread.start()

    def close(self, seconds: float = 5.0) -> None:
        """Take no more part. An update that is under way ends for this rank by its own rules. Idempotent.

        Raises:
            SyncError: the thread did not end in time.
        """
        self._ending = True
        self._loop.put(lambda: None)
        self._mail.close()
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise SyncError(f"The sync thread of rank {self.participant.rank} did not end within {seconds:g} s.")
        self._plane.close()

    def _run(self) -> None:
        with self._plane.device.use(self._plane.index):
            while not (self._ending and self.participant.phase is not Phase.PREPARED):
                try:
                    self._loop.turn(_SLICE)
                    self._settle()
                except Exception as error:  # whatever it is, this rank must not go on as if nothing were
                    _logger.exception("hardpoint: the sync thread of rank %d", self.participant.rank)
                    self.participant.broke(f"weight sync broke on this rank: {describe(error)}")
                self._changed()
            if self.participant.under_way is not None:  # nobody would end it any more
                self.participant.unreachable("this rank was told to take no more part")
                self._settle()
                self._changed()

    # What happens.

    def _arrived(self, data: bytes) -> None:
        self._loop.put(functools.partial(self._take, data))

    def _store_lost(self, why: str) -> None:
        self.lost = why
        _logger.info("hardpoint: rank %d: %s", self.participant.rank, why)
        self._loop.put(lambda: self.participant.unreachable(why))

    def _take(self, data: bytes) -> None:
        try:
            message = decode(data)
        except SyncError as error:
            _logger.warning("hardpoint: rank %d: %s", self.participant.rank, error)
            return
        if isinstance(message, Begin):
            self._mail.forget()  # those above and below may have started again since the last update
        if isinstance(message, Verify) and self._waits_for_buckets(message.session):
            self._held = message
            return
        self._receive(message)
        if isinstance(message, Stream):
            self._begin_stream(message)

    def _receive(self, message: Message) -> None:
        try:
            self._post(self.participant.receive(message, time.monotonic()))
        except SyncError as error:  # not a message to a receiver
            _logger.warning("hardpoint: rank %d: %s", self.participant.rank, error)

    def _begin_stream(self, message: Stream) -> None:
        begin = self.participant.under_way
        if begin is None or (begin.session, begin.coordinator) != (message.session, message.coordinator):
            return
        if self.participant.phase is not Phase.STAGING or self._streaming == begin.session:
            return
        staging = self.participant.staging
        assert staging is not None
        of = StreamOf(begin.session, begin.epoch, self.participant.plan, begin.deadline, begin.mode is not Mode.OFF)
        self._streaming = begin.session
        try:
            self._stream = Receiving(
                self._plane,
                message.lane,
                of,
                self.participant.rank,
                staging,
                functools.partial(self._later, self._streamed, of),
                functools.partial(self._later, self._cut, of),
                functools.partial(self._later, self._refused, of),
            )
        except Exception as error:  # noqa: BLE001 - no memory to keep the old values in: this rank's no, nothing is lost
            self._refused(of, describe(error))

    def _later(self, what: Callable[..., None], *arguments: object) -> None:
        self._loop.put(functools.partial(what, *arguments))

    def _streamed(self, of: StreamOf, digests: dict[int, bytes]) -> None:
        if self._streaming == of.session:
            self.participant.streamed(of.session, digests, time.monotonic())
            self._stream = None
            self._release()

    def _cut(self, of: StreamOf, why: str) -> None:
        if self._streaming == of.session:
            self.participant.cut_off(of.session, why)
            self._stream = None
            self._release()

    def _refused(self, of: StreamOf, why: str) -> None:
        if self._streaming == of.session:
            self._post(self.participant.object_to(of.session, why, time.monotonic()))
            self._stream = None
            self._release()

    def _waits_for_buckets(self, session: str) -> bool:
        return self._streaming == session and self._stream is not None

    def _release(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._receive(held)

    def _settle(self) -> None:
        """A stream whose update has ended here is of no use any more."""
        begin = self.participant.under_way
        if self._streaming and (begin is None or begin.session != self._streaming):
            if self._stream is not None:
                self._plane.drop()  # it is in the middle of something that nobody goes on with
            self._stream, self._streaming, self._held = None, "", None

    def _post(self, outgoing: Iterable[Outgoing]) -> None:
        for to, message in outgoing:
            self._mail.send(to, encode(message))
