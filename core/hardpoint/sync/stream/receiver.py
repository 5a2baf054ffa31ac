"""`StreamReceiver`: a receiver's end. What lands in one piece is received where it belongs, the rest through a buffer.

Digests are taken from the storages, through the inverse layout, after a message has landed; never from a buffer.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

import torch

from hardpoint.device import Device, Event
from hardpoint.errors import SyncError
from hardpoint.sync.plan import Landing, Move, Storages, SyncPlan
from hardpoint.sync.stream.audiences import audiences_of
from hardpoint.sync.stream.boxes import BoxKernels, Launch, TorchBoxes
from hardpoint.sync.stream.cuts import DIRECT_BYTES, Cut, cuts_of
from hardpoint.sync.stream.lanes import Lanes, seconds_left
from hardpoint.sync.stream.link import Link
from hardpoint.sync.stream.memory import Ring
from hardpoint.sync.stream.ranges import in_buffer, one_range
from hardpoint.sync.stream.sender import OnBucket
from hardpoint.sync.stream.stamp import check_stamp, stamp_memory
from hardpoint.sync.stream.sums import Sums


class Keeper(Protocol):
    """Puts parameters aside before they are overwritten; see `Undo`."""

    def begin(self) -> None:
        """A new update starts; follows what the caller has queued."""
        ...

    def kept(self, parameter: int) -> Event:
        """After this event parameter number `parameter` of the rank's destinations may be overwritten."""
        ...


@dataclass(frozen=True)
class _In:
    """A message to come: where its bytes go, how they land from there (None: they are there), and their digests.

    `arrived` and `landed` are marks in the lanes, used again at every update.
    """

    payload: torch.Tensor
    land: Launch | None
    turn: int
    digests: tuple[Launch, ...]
    parameters: tuple[int, ...]
    arrived: Event
    landed: Event


class StreamReceiver:
    """Receives updates of one plan as rank `rank`, over one link. Arguments as of `StreamSender`."""

    def __init__(
        self,
        plan: SyncPlan,
        rank: int,
        link: Link,
        device: Device,
        *,
        index: int = 0,
        kernels: BoxKernels | None = None,
        buffer_bytes: int | None = None,
        least: int = DIRECT_BYTES,
        digests: bool = True,
    ) -> None:
        self._plan, self._rank, self._link, self._device, self._index = plan, rank, link, device, index
        self._kernels = kernels or TorchBoxes()
        self._room = 2 * plan.bucket_bytes if buffer_bytes is None else buffer_bytes
        self._least, self._verified = least, digests
        self._lanes = Lanes(device, index, "wire", "land", "digest")
        self._buckets = plan.buckets_for(rank)
        self._audiences = [audience for audience in audiences_of(plan) if rank in audience]
        self._stamps = [stamp_memory(device.torch_device(index)) for _ in self._audiences]
        self._greeted = self._lanes.event()
        self._from = [plan.audience(bucket) for bucket in self._buckets]
        self._target: Storages | None = None
        self._ring: Ring | None = None
        self._sums: Sums | None = None
        self._in: list[list[_In]] = []

    @property
    def buffer_bytes(self) -> int:
        """Memory on the device above the storages."""
        return self._ring.nbytes if self._ring is not None else 0

    def prepare(self, target: Storages) -> None:
        """Bind the storages that the next updates land in: live ones, or a second copy."""
        if target is self._target:
            return
        with self._device.use(self._index):
            where = self._device.torch_device(self._index)
            repeats = [(bucket, target.repeats(bucket)) for bucket in self._buckets]
            self._sums = Sums(repeats, where) if self._verified else None
            found = [[self._places(cut, target) for cut in cuts_of(bucket, self._least)] for bucket in self._buckets]
            buffered = [cut.nbytes for of in found for cut, _, whole in of if whole is None]
            self._ring = Ring(buffered, self._room, self._device, self._index)
            turn = 0
            self._in = []
            for (bucket, count), of in zip(repeats, found, strict=True):
                self._in.append([])
                for cut, boxes, whole in of:
                    self._in[-1].append(self._bound(cut, boxes, whole, turn, target, bucket.nbytes, count))
                    turn += whole is None
        self._device.synchronize(self._index)  # zeros and tables were queued in a stream that updates may not follow
        self._target = target

    def release(self) -> None:
        """Hold storages and buffer no more: a second copy of the weights is memory that others need until the next."""
        self._target = self._ring = None
        self._in = []

    def receive(
        self,
        stamp: bytes,
        *,
        deadline: float,
        in_place: bool = False,
        keeper: Keeper | None = None,
        on_bucket: OnBucket | None = None,
    ) -> dict[int, bytes]:
        """Receive all buckets into the prepared storages and return the digest of each, of what is stored.

        Args:
            stamp: `stamp_of` the update that was agreed on.
            deadline: seconds for all of it.
            in_place: the storages are live: nothing is written before the stamp has been checked.
            keeper: has the values that are overwritten.
            on_bucket: called when a bucket has been queued. What it raises ends the stream, for all ranks.

        Raises:
            CommunicatorError: a rank did not come; it is named. The link cannot be used again.
            SyncError: nothing was prepared, the bytes are of another update, or the deadline passed.
        """
        if self._ring is None:
            raise SyncError("Nowhere to receive: call prepare with the storages first.")
        until = time.monotonic() + deadline
        lanes, doing = self._lanes, f"Receiving at rank {self._rank}"
        try:
            with self._device.use(self._index):
                nearly = self._queue(stamp, until, in_place, keeper, on_bucket)
                done = lanes.ends()
            lanes.settle(nearly, self._link, until, doing)
            lanes.settle(done, self._link, until, doing, soon=True)
            self._check(stamp)
        except BaseException:
            self._link.close()
            raise
        return self._sums.digests() if self._sums is not None else {}

    def _queue(
        self, stamp: bytes, until: float, in_place: bool, keeper: Keeper | None, on_bucket: OnBucket | None
    ) -> list[Event]:
        """Queue everything; the answer is done when the last message is all that is left."""
        assert self._ring is not None
        lanes, ring, link = self._lanes, self._ring, self._link
        nearly: list[Event] = []
        lanes.follow_caller()
        ring.start()
        with lanes.on("wire") as wire:
            self._greet(until)
            if in_place:
                lanes.settle([self._greeted], link, until, f"Receiving the stamp at rank {self._rank}", soon=True)
                self._check(stamp)
            if keeper is not None:
                keeper.begin()  # after the stamps: their way to the host would be behind all that it keeps
            for bucket, audience, ins in zip(self._buckets, self._from, self._in, strict=True):
                for one in ins:
                    before = [keeper.kept(number) for number in one.parameters] if keeper is not None else []
                    if one.land is not None:
                        ring.wait(one.turn, wire)
                    else:
                        for event in before:
                            wire.wait_event(event)
                    link.receive(one.payload, audience, seconds_left(until))
                    one.arrived.record(wire)
                    landed = one.arrived
                    if one.land is not None:
                        with lanes.on("land") as land:
                            for event in (one.arrived, *before):
                                land.wait_event(event)
                            one.land()
                        landed = one.landed
                        landed.record(land)
                        ring.busy(one.turn, (landed,))
                    if one.digests:
                        with lanes.on("digest") as digesting:
                            digesting.wait_event(landed)
                            for digest in one.digests:
                                digest()
                    nearly = [*nearly[-1:], one.arrived]
                if on_bucket is not None:
                    on_bucket(bucket)
        if self._sums is not None:
            with lanes.on("digest"):
                self._sums.fetch()
        return nearly[:-1]

    def _greet(self, until: float) -> None:
        """Take a stamp from every group that this rank hears, in the wire's lane, and queue its way to the host."""
        for audience, (host, here) in zip(self._audiences, self._stamps, strict=True):
            self._link.receive(here, audience, seconds_left(until))
            host.copy_(here, non_blocking=True)
        self._greeted.record(self._lanes["wire"])

    def _check(self, stamp: bytes) -> None:
        for host, _ in self._stamps:
            check_stamp(host, stamp, self._rank)

    def _places(
        self, cut: Cut, target: Storages
    ) -> tuple[Cut, list[list[tuple[int, torch.Tensor]]], torch.Tensor | None]:
        """The boxes of a message at each of its landings here, and its whole range if it can be received there."""
        shard = self._plan.shard_of[self._rank]
        lists: list[list[tuple[int, torch.Tensor]]] = []
        for at, move in cut.pieces:
            mine = [landing for landing in move.landings if landing.shard == shard]
            while len(lists) < len(mine):
                lists.append(list(lists[-1]) if lists else [])
            for number, boxes in enumerate(lists):
                boxes += _boxes(at, move, mine[min(number, len(mine) - 1)], target)
        return cut, lists, one_range(lists[0]) if len(lists) == 1 else None

    def _bound(
        self,
        cut: Cut,
        lists: list[list[tuple[int, torch.Tensor]]],
        whole: torch.Tensor | None,
        turn: int,
        target: Storages,
        nbytes: int,
        repeats: int,
    ) -> _In:
        assert self._ring is not None
        payload, land = whole, None
        if payload is None:
            payload = self._ring.place(turn)
            pairs = {}  # a box that lands once is in every list
            for boxes in lists:
                for at, box in boxes:
                    pairs[at, box.data_ptr()] = box, in_buffer(payload, at - cut.start, box)
            land = self._kernels.copy(list(pairs.values()))
        digests: tuple[Launch, ...] = ()
        if self._sums is not None:
            digests = tuple(
                self._kernels.digest(lists[min(repeat, len(lists) - 1)], self._sums.row(cut.bucket, repeat), nbytes)
                for repeat in range(repeats)
            )
        shard = self._plan.shard_of[self._rank]
        touched = {landing.parameter for _, move in cut.pieces for landing in move.landings if landing.shard == shard}
        marks = [self._lanes.event() for _ in range(2)]
        return _In(payload, land, turn, digests, tuple(sorted(touched)), *marks)


def _boxes(at: int, move: Move, landing: Landing, target: Storages) -> list[tuple[int, torch.Tensor]]:
    return [(at + box * move.pitch, target.view(move, landing, box)) for box in range(len(move.sources))]
