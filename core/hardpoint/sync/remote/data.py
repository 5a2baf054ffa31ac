"""The data plane of one process: streams over a `Link`, each in a thread of its own.

The thread may wait in a collective for a peer that is dead; whoever votes and answers must not. So a stream comes and
goes here, with its deadline, and the control loop hears of it as events. A link that anything went wrong on is never
used again: the next update opens another one, under another name.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hardpoint.device import HostDevice
from hardpoint.errors import CommunicatorError, SyncError
from hardpoint.sync.plan import Bucket, Sources, Storages, SyncPlan
from hardpoint.sync.session import describe
from hardpoint.sync.stream import FedSender, Feed, Keeper, StreamReceiver, StreamSender, Undo, audiences_of, stamp_of

if TYPE_CHECKING:
    from hardpoint.device import Device
    from hardpoint.sync.stream import BoxKernels, Link
    from hardpoint.sync.transaction.staging import Staging

Audience = tuple[int, ...]
Opener = Callable[[str, tuple[Audience, ...], float], "Link"]  # name, audiences, seconds


@dataclass(frozen=True)
class StreamOf:
    """Which update is on the wire, and the seconds that all of it may take."""

    session: str
    epoch: int
    plan: SyncPlan
    deadline: float
    digests: bool = True

    @property
    def stamp(self) -> bytes:
        return stamp_of(self.session, self.epoch, self.plan.digest)


class DataPlane:
    """Keeps the link from one update to the next.

    Args:
        open_link: connects this process to all others of the audiences, under a name that both sides know.
        device, index: where weights are; the threads run on it.
        kernels: of the backend; None for torch's own operations.
        on_bucket: called as each bucket is queued.

    Attributes:
        feed: of the next update sent, if its tensors come one at a time.
    """

    def __init__(
        self,
        open_link: Opener,
        device: Device | None = None,
        index: int = 0,
        *,
        kernels: BoxKernels | None = None,
        on_bucket: Callable[[Bucket], None] | None = None,
    ) -> None:
        self._open = open_link
        self.device: Device = device or HostDevice()
        self.index = index
        self.kernels = kernels
        self.on_bucket = on_bucket
        self.feed: Feed | None = None
        self._lock = threading.Lock()
        self._name = self._wanted = ""
        self._link: Link | None = None
        self._audiences: set[Audience] = set()
        self._ends: dict[tuple[str, bool, int], StreamSender | StreamReceiver] = {}
        self._kept: tuple[Storages, Undo] | None = None

    def name_for(self, plan: SyncPlan) -> str:
        """Trainer: of the link that the next update takes: the open one if it serves, else a new one."""
        with self._lock:
            if self._link is not None and self._audiences.issuperset(audiences_of(plan)):
                return self._name
        return secrets.token_hex(8)

    def link(self, name: str, plan: SyncPlan, deadline: float) -> Link:
        """The link `name`, opened if it is not yet. Raises what opening raises."""
        with self._lock:
            if self._link is not None and self._name == name:
                return self._link
        self.drop()
        with self._lock:
            self._wanted = name
        audiences = audiences_of(plan)
        opened = self._open(name, audiences, deadline)
        with self._lock:
            stale = self._wanted != name
            if not stale:
                self._name, self._link, self._audiences = name, opened, set(audiences)
        if stale:
            _close_aside(opened)
            raise SyncError("the update ended while its link was opened")
        return opened

    def sender(self, link: Link, of: StreamOf) -> StreamSender | FedSender:
        """The sending end for a plan on `link`, the same for the next update; with a `feed`, one for its tensors."""
        if self.feed is not None:
            return FedSender(self.feed, link, self.device, index=self.index, kernels=self.kernels, digests=of.digests)
        key = (of.plan.digest, of.digests, id(link))  # an end holds its link
        made = self._ends.get(key)
        if not isinstance(made, StreamSender):
            made = StreamSender(of.plan, link, self.device, index=self.index, kernels=self.kernels, digests=of.digests)
            self._ends = {key: made}
        return made

    def receiver(self, link: Link, of: StreamOf, rank: int) -> StreamReceiver:
        """The receiving end, likewise."""
        key = (of.plan.digest, of.digests, id(link))
        made = self._ends.get(key)
        if not isinstance(made, StreamReceiver):
            made = StreamReceiver(
                of.plan, rank, link, self.device, index=self.index, kernels=self.kernels, digests=of.digests
            )
            self._ends = {key: made}
        return made

    def keeper(self, live: Storages) -> Undo:
        """Host memory for what an update overwrites, taken once for the same storages."""
        if self._kept is None or self._kept[0] is not live:
            self._kept = live, Undo(live, self.device, index=self.index)
        return self._kept[1]

    def drop(self) -> None:
        """Use the link, or the one that is being opened, no more, and close it."""
        with self._lock:
            dropped, self._link, self._name, self._wanted, self._ends = self._link, None, "", "", {}
        _close_aside(dropped)

    close = drop

    def drop_only(self, link: Link | None) -> None:
        """`drop` if `link` is the one in use: a stream that ends late must not take away the next one's."""
        with self._lock:
            current = link is not None and link is self._link
        if current:
            self.drop()
        else:
            _close_aside(link)


def _close_aside(link: Link | None) -> None:
    """Release a link without waiting for it: a group that lost a member may take its time, and the next is needed."""
    if link is not None:
        threading.Thread(target=link.close, name="hardpoint-close", daemon=True).start()


class Sending:
    """The trainer's end of one stream: `done(digests)` or `lost(why)`, once, from its thread.

    The caller's work on the tensors must be complete, or queued on the device's current stream of this thread.
    """

    def __init__(
        self,
        plane: DataPlane,
        name: str,
        of: StreamOf,
        sources: Sources,
        done: Callable[[tuple[bytes, ...]], None],
        lost: Callable[[str], None],
    ) -> None:
        self._plane, self._name, self._of, self._sources = plane, name, of, sources
        self._done, self._lost = done, lost
        self._ready = plane.device.event(plane.index)
        self._ready.record(plane.device.current_stream(plane.index))
        threading.Thread(target=self._run, name="hardpoint-send", daemon=True).start()

    def _run(self) -> None:
        plane, of = self._plane, self._of
        link: Link | None = None
        try:
            with plane.device.use(plane.index):
                plane.device.current_stream(plane.index).wait_event(self._ready)
                link = plane.link(self._name, of.plan, of.deadline)
                sender = plane.sender(link, of)
                sender.prepare(self._sources)
                digests = sender.send(of.stamp, deadline=of.deadline, on_bucket=plane.on_bucket)
                if isinstance(sender, StreamSender):
                    sender.release()
        except Exception as error:  # noqa: BLE001 - told to the control loop
            plane.drop_only(link)
            self._lost(describe(error))
        else:
            self._done(digests)


class Receiving:
    """A receiver's end of a stream, in its thread: `done(digests of what is stored)`; or `refused(why)`, if it is this
    rank that cannot go on; or `lost(why)`, if somebody else is gone."""

    def __init__(
        self,
        plane: DataPlane,
        name: str,
        of: StreamOf,
        rank: int,
        staging: Staging,
        done: Callable[[dict[int, bytes]], None],
        lost: Callable[[str], None],
        refused: Callable[[str], None],
    ) -> None:
        self._plane, self._name, self._of, self._rank = plane, name, of, rank
        self._staging, self._done, self._lost, self._refused = staging, done, lost, refused
        self._link: Link | None = None
        self._lock = threading.Lock()
        self._stopped = self._writes = False
        self._keeper: Keeper | None = staging.stream_into(plane.keeper, self.stop)
        self._thread = threading.Thread(target=self._run, name=f"hardpoint-receive-{rank}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Return when this stream writes nowhere any more.

        Raises:
            SyncError: it did not come to an end, so that what it writes to cannot be put right.
        """
        with self._lock:
            self._stopped = True
            if not self._writes:
                return  # it is still opening its link, and finds this when that is done
        if self._thread.is_alive():
            self._plane.drop_only(self._link)
        self._thread.join(self._of.deadline + 1.0)
        if self._thread.is_alive():
            raise SyncError("the stream of the update could not be stopped")

    def _run(self) -> None:
        plane, of = self._plane, self._of
        try:
            with plane.device.use(plane.index):
                self._link = link = plane.link(self._name, of.plan, of.deadline)
                receiver = plane.receiver(link, of, self._rank)
                receiver.prepare(self._staging.target)
                with self._lock:
                    if self._stopped:
                        raise SyncError("the update ended before its stream began")
                    self._writes = True
                digests = receiver.receive(
                    of.stamp,
                    deadline=of.deadline,
                    in_place=self._staging.in_place,
                    keeper=self._keeper,
                    on_bucket=plane.on_bucket,
                )
                receiver.release()
        except CommunicatorError as error:
            plane.drop_only(self._link)
            self._lost(describe(error))
        except Exception as error:  # noqa: BLE001 - told to the control loop
            self._refused(describe(error))  # before the others find the link closed
            plane.drop_only(self._link)
        else:
            self._done(digests)
