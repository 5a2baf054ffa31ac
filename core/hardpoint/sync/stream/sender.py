"""`StreamSender`: the trainer's end. Packs what has to be packed, sends, and digests, one message beside the other.

No step waits on the host: packing, wire and digests are queued in lanes of their own and ordered by events. What lies
in one piece in the trainer's memory, and lands in one piece, goes from the weights themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from hardpoint.device import Device, Event
from hardpoint.errors import SyncError
from hardpoint.sync.plan import Bucket, Sources, SyncPlan
from hardpoint.sync.stream.audiences import audiences_of
from hardpoint.sync.stream.boxes import BoxKernels, Launch, TorchBoxes
from hardpoint.sync.stream.cuts import DIRECT_BYTES, Cut, cuts_of
from hardpoint.sync.stream.lanes import Lanes, seconds_left
from hardpoint.sync.stream.link import Link
from hardpoint.sync.stream.memory import Ring
from hardpoint.sync.stream.ranges import in_buffer, one_range
from hardpoint.sync.stream.stamp import stamp_memory, stamp_tensor
from hardpoint.sync.stream.sums import Sums

OnBucket = Callable[[Bucket], None]


@dataclass(frozen=True)
class _Out:
    """A message made ready: its bytes, how they come there (None: they are the weights), and its digest.

    `full`, `sent` and `digested` are marks in the lanes, used again at every update.
    """

    payload: torch.Tensor
    pack: Launch | None
    turn: int
    digest: Launch | None
    full: Event
    sent: Event
    digested: Event


class StreamSender:
    """Sends updates of one plan over one link.

    Args:
        device: the trainer's; its tensors are on number `index` of it.
        kernels: of the backend; `TorchBoxes` works everywhere.
        buffer_bytes: for messages that have to be packed, at most; at least two buckets, for packing beside the wire.
        least: see `DIRECT_BYTES`; the same on every rank.
        digests: False to send unverified, as mode off does.
    """

    def __init__(
        self,
        plan: SyncPlan,
        link: Link,
        device: Device,
        *,
        index: int = 0,
        kernels: BoxKernels | None = None,
        buffer_bytes: int | None = None,
        least: int = DIRECT_BYTES,
        digests: bool = True,
    ) -> None:
        self._plan, self._link, self._device, self._index = plan, link, device, index
        self._kernels = kernels or TorchBoxes()
        self._room = 2 * plan.bucket_bytes if buffer_bytes is None else buffer_bytes
        self._least = least
        self._lanes = Lanes(device, index, "pack", "wire", "digest")
        where = device.torch_device(index)
        self._sums = Sums(((bucket, 1) for bucket in plan.buckets), where) if digests else None
        self._audiences = audiences_of(plan)
        self._to = [plan.audience(bucket) for bucket in plan.buckets]
        self._sources: Sources | None = None
        self._ring: Ring | None = None
        self._stamp = stamp_memory(where)
        self._out: list[list[_Out]] = []

    @property
    def buffer_bytes(self) -> int:
        """Memory on the device above the weights."""
        return self._ring.nbytes if self._ring is not None else 0

    def prepare(self, sources: Sources) -> None:
        """Bind the tensors that the next updates are read from; again only when they are other tensors."""
        if sources is self._sources:
            return
        with self._device.use(self._index):
            views = [[_views(cut, sources) for cut in cuts_of(bucket, self._least)] for bucket in self._plan.buckets]
            ranges = [[one_range(boxes) for _, boxes in of] for of in views]
            packed = [
                cut.nbytes
                for of, found in zip(views, ranges, strict=True)
                for (cut, _), whole in zip(of, found, strict=True)
                if whole is None
            ]
            self._ring = Ring(packed, self._room, self._device, self._index)
            turn = 0
            self._out = []
            for bucket, of, found in zip(self._plan.buckets, views, ranges, strict=True):
                self._out.append([])
                for (cut, boxes), whole in zip(of, found, strict=True):
                    self._out[-1].append(self._bound(bucket, cut, boxes, whole, turn))
                    turn += whole is None
        self._device.synchronize(self._index)  # zeros and tables were queued in a stream that updates may not follow
        self._sources = sources

    def release(self) -> None:
        """Hold tensors and buffer no more: they are the trainer's, who may have gathered them for this update alone."""
        self._sources = self._ring = None
        self._out = []

    def send(self, stamp: bytes, *, deadline: float, on_bucket: OnBucket | None = None) -> tuple[bytes, ...]:
        """Send all buckets and return the digest of each, of what was packed; empty without digests.

        Args:
            stamp: `stamp_of` this update.
            deadline: seconds for all of it.
            on_bucket: called when a bucket has been queued. What it raises ends the stream.

        Raises:
            CommunicatorError: a rank did not come; it is named. The link cannot be used again.
            SyncError: nothing was prepared, or the deadline passed for another reason.
        """
        if self._ring is None:
            raise SyncError("Nothing to send: call prepare with the tensors first.")
        until = time.monotonic() + deadline
        lanes = self._lanes
        try:
            with self._device.use(self._index):
                nearly = self._queue(stamp, until, on_bucket)
                done = lanes.ends()
            lanes.settle(nearly, self._link, until, "Sending")
            lanes.settle(done, self._link, until, "Sending", soon=True)
        except BaseException:
            self._link.close()  # whoever waits for the rest learns at once that it will not come
            raise
        if self._sums is None:
            return ()
        found = self._sums.digests()
        return tuple(found[bucket.index] for bucket in self._plan.buckets)

    def _queue(self, stamp: bytes, until: float, on_bucket: OnBucket | None) -> list[Event]:
        """Queue everything; the answer is done when the last message is all that is left."""
        assert self._ring is not None
        lanes, ring, link = self._lanes, self._ring, self._link
        nearly: list[Event] = []
        lanes.follow_caller()
        ring.start()
        with lanes.on("wire") as wire:
            self._greet(stamp, until)
            for bucket, audience, outs in zip(self._plan.buckets, self._to, self._out, strict=True):
                for out in outs:
                    if out.pack is not None:
                        with lanes.on("pack") as pack:
                            ring.wait(out.turn, pack)
                            out.pack()
                        out.full.record(pack)
                        wire.wait_event(out.full)
                    link.send(out.payload, audience, seconds_left(until))
                    out.sent.record(wire)
                    users = [out.sent]
                    if out.digest is not None:
                        with lanes.on("digest") as digest:
                            if out.pack is not None:
                                digest.wait_event(out.full)
                            out.digest()
                        out.digested.record(digest)
                        users.append(out.digested)
                    if out.pack is not None:
                        ring.busy(out.turn, users)
                    nearly = [*nearly[-1:], out.sent]
                if on_bucket is not None:
                    on_bucket(bucket)
        if self._sums is not None:
            with lanes.on("digest"):
                self._sums.fetch()
        return nearly[:-1]

    def _greet(self, stamp: bytes, until: float) -> None:
        """Say to everybody which update comes."""
        host, here = self._stamp
        host.copy_(stamp_tensor(stamp))
        here.copy_(host, non_blocking=True)
        for audience in self._audiences:
            self._link.send(here, audience, seconds_left(until))

    def _bound(
        self, bucket: Bucket, cut: Cut, boxes: list[tuple[int, torch.Tensor]], whole: torch.Tensor | None, turn: int
    ) -> _Out:
        assert self._ring is not None
        if whole is not None:
            payload, pack, held = whole, None, boxes
        else:
            payload = self._ring.place(turn)
            held = [(at, in_buffer(payload, at - cut.start, box)) for at, box in boxes]
            pack = self._kernels.copy([(place, box) for (_, place), (_, box) in zip(held, boxes, strict=True)])
        digest = None
        if self._sums is not None:
            digest = self._kernels.digest(held, self._sums.row(bucket.index), bucket.nbytes)
        marks = [self._lanes.event() for _ in range(3)]
        return _Out(payload, pack, turn, digest, *marks)


def _views(cut: Cut, sources: Sources) -> tuple[Cut, list[tuple[int, torch.Tensor]]]:
    return cut, [
        (at + box * move.pitch, sources.view(move, box)) for at, move in cut.pieces for box in range(len(move.sources))
    ]
