"""Streams whose tensors are made one at a time: `Feed` packs them where they are made, `FedSender` sends what is full.

A sharded trainer gathers a tensor, hands it over and drops it; nobody ever holds all of them. What is held is the
buckets that are begun and not full. A plan has its buckets in the order in which they fill up, so that each leaves as
soon as it is full, and how many are open at once is known before anything moves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from hardpoint.device import Device, Event
from hardpoint.errors import SyncError
from hardpoint.moe.views import words
from hardpoint.sync.dtypes import torch_dtype
from hardpoint.sync.manifest import TensorSpec
from hardpoint.sync.plan import Bucket, Move, SyncPlan, plain_name
from hardpoint.sync.stream.audiences import audiences_of
from hardpoint.sync.stream.boxes import BoxKernels, TorchBoxes
from hardpoint.sync.stream.cuts import DIRECT_BYTES, cuts_of
from hardpoint.sync.stream.lanes import Lanes, seconds_left
from hardpoint.sync.stream.link import Link
from hardpoint.sync.stream.ranges import in_buffer
from hardpoint.sync.stream.sender import OnBucket
from hardpoint.sync.stream.stamp import stamp_memory, stamp_tensor
from hardpoint.sync.stream.sums import Sums

_LOOK = 0.5  # seconds between two looks at whether the other side is still there


@dataclass(frozen=True)
class FeedPlan:
    """Where each offered tensor goes.

    Attributes:
        boxes: by tensor, in the order of the offer: ``(bucket, byte in it, move)``, buckets ascending.
        counts: boxes of each bucket.
        buffers: buckets that are open at once, and one more, which is on the wire.
    """

    plan: SyncPlan
    boxes: tuple[tuple[tuple[int, int, Move], ...], ...]
    counts: tuple[int, ...]
    buffers: int

    @property
    def nbytes(self) -> int:
        """Memory that a stream holds besides the tensor that it is handed."""
        return self.buffers * max((bucket.nbytes for bucket in self.plan.buckets), default=0)


def feed_plan(plan: SyncPlan, most_bytes: int | None = None) -> FeedPlan:
    """Plan to stream the offered tensors in the offer's order. Pure.

    Raises:
        SyncError: it would hold more than `most_bytes`.
    """
    boxes: list[list[tuple[int, int, Move]]] = [[] for _ in plan.offer.tensors]
    counts = [0] * len(plan.buckets)
    for bucket in plan.buckets:
        for at, move in bucket.pieces:
            for box, source in enumerate(move.sources):
                boxes[source].append((bucket.index, at + box * move.pitch, move))
                counts[bucket.index] += 1
    left, open_, most, worst = list(counts), set[int](), 0, ""
    for spec, of in zip(plan.offer.tensors, boxes, strict=True):
        for index, *_ in of:
            open_.add(index)
            if len(open_) > most:
                most, worst = len(open_), spec.name
            left[index] -= 1
            if not left[index]:
                open_.discard(index)
    found = FeedPlan(plan, tuple(tuple(of) for of in boxes), tuple(counts), most + 1)
    if most_bytes is not None and found.nbytes > most_bytes:
        raise SyncError(
            f"In the order in which these tensors come, {most} buckets of up to {plan.bucket_bytes} bytes are open at "
            f"once (at {worst}), and {most_bytes} bytes may be held: receivers hold side by side what comes far apart. "
            "Hand them over in the checkpoint's order, layer by layer, or all at once as a mapping."
        )
    return found


@dataclass
class _Buffer:
    room: torch.Tensor  # flat uint8
    full: Event
    free: tuple[Event, ...] = ()  # whoever read it last
    bucket: Bucket | None = None


class Ended(SyncError):
    """The update that a feed was for has ended; why, its outcome tells."""


class Feed:
    """Takes tensors in the thread that makes them, in its current stream, and hands full buckets to a `FedSender`.

    Args:
        device, index: where buckets are packed.
        given: dtypes of tensors that are announced in a narrower float than they are sent in, by plain name.
    """

    def __init__(self, plan: FeedPlan, device: Device, index: int = 0, given: Mapping[str, str] | None = None) -> None:
        self.plan = plan
        self._device, self._index = device, index
        self._given = dict(given or {})
        self._buffers = 0
        self._idle: list[_Buffer] = []
        self._open: dict[int, _Buffer] = {}
        self._left = list(plan.counts)
        self._full: list[_Buffer] = []
        self._changed = threading.Condition()
        self._wanted = self._closed = False
        self._broken: BaseException | None = None

    # The side of the tensors.

    def run(self, pairs: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Walk `pairs` once the stream wants them; returns early, without a word, if the update has ended.

        Raises:
            SyncError: a tensor is missing, extra, out of order or not as it was announced; the stream is told.
        """
        if not self._is_wanted():
            return
        try:
            self._walk(pairs)
        except Ended:
            return
        except BaseException as error:
            self._break(error)
            raise

    def _walk(self, pairs: Iterable[tuple[str, torch.Tensor]]) -> None:
        specs = self.plan.plan.offer.tensors
        walk = iter(pairs)
        for number, spec in enumerate(specs):
            pair = next(walk, None)
            if pair is None:
                raise SyncError(f"Tensor {spec} is announced, but the tensors ended before it.")
            self._take(number, spec, *pair)
            del pair
        extra = next(walk, None)
        if extra is not None:
            last = specs[-1].name if specs else "nothing"
            raise SyncError(f"Tensor {extra[0]} came after the last one that was announced, {last}.")

    @torch.no_grad()
    def _take(self, number: int, spec: TensorSpec, name: str, tensor: torch.Tensor) -> None:
        found = TensorSpec.of(plain_name(name), tensor)
        announced = TensorSpec(spec.name, spec.shape, self._given.get(spec.name, spec.dtype))
        if found.name != announced.name:
            raise SyncError(f"Expected tensor {announced} next, as it was announced, found {found}.")
        if found != announced:
            raise SyncError(
                f"Tensor {name} is announced as {announced.dtype}{list(announced.shape)}, found "
                f"{found.dtype}{list(found.shape)}."
            )
        if not self.plan.boxes[number]:
            return
        flat = words(tensor.detach().to(torch_dtype(spec.dtype)).contiguous())
        for index, at, move in self.plan.boxes[number]:
            buffer = self._open.get(index) or self._opened(index)
            view = flat.as_strided(move.sizes, move.strides, flat.storage_offset() + move.offset)
            in_buffer(buffer.room, at, view).copy_(view, non_blocking=True)
            self._left[index] -= 1
            if not self._left[index]:
                self._hand_over(self._open.pop(index))

    def _opened(self, index: int) -> _Buffer:
        bucket = self.plan.plan.buckets[index]
        buffer = self._next_buffer()
        stream = self._device.current_stream(self._index)
        for event in buffer.free:
            stream.wait_event(event)
        buffer.bucket, buffer.free = bucket, ()
        if sum(piece.move.nbytes for piece in bucket.pieces) < bucket.nbytes:
            buffer.room[: bucket.nbytes].zero_()  # gaps travel, and count in the digest
        self._open[index] = buffer
        return buffer

    def _next_buffer(self) -> _Buffer:
        if self._buffers < self.plan.buffers:
            self._buffers += 1
            nbytes = max(bucket.nbytes for bucket in self.plan.plan.buckets)
            where = self._device.torch_device(self._index)
            return _Buffer(torch.empty(nbytes, dtype=torch.uint8, device=where), self._device.event(self._index))
        with self._changed:
            while not self._idle:
                self._check_open()
                self._changed.wait(_LOOK)
            return self._idle.pop(0)

    def _hand_over(self, buffer: _Buffer) -> None:
        buffer.full.record(self._device.current_stream(self._index))
        with self._changed:
            self._check_open()
            self._full.append(buffer)
            self._changed.notify_all()

    def _is_wanted(self) -> bool:
        with self._changed:
            while not (self._wanted or self._closed):
                self._changed.wait(_LOOK)
            return not self._closed

    def _check_open(self) -> None:
        if self._closed:
            raise Ended("the update has ended")

    def _break(self, error: BaseException) -> None:
        with self._changed:
            self._broken = error
            self._changed.notify_all()

    # The side of the wire.

    def want(self) -> None:
        """The stream begins."""
        with self._changed:
            self._wanted = True
            self._changed.notify_all()

    def take(self, bucket: Bucket, until: float) -> _Buffer:
        """`bucket`, full. SyncError if the tensors did not come by `until`, or whoever makes them failed."""
        with self._changed:
            while not self._full:
                if self._broken is not None:
                    raise SyncError(f"the trainer's tensors: {type(self._broken).__name__}: {self._broken}")
                self._check_open()
                left = until - time.monotonic()
                if left <= 0:
                    raise SyncError("the trainer did not hand over its tensors by the deadline of the stream")
                self._changed.wait(min(left, _LOOK))
            found = self._full.pop(0)
        if found.bucket is None or found.bucket.index != bucket.index:
            raise SyncError(f"bucket {bucket.index} was expected next; the plan's order is not that of the tensors")
        return found

    def give_back(self, buffer: _Buffer, after: Sequence[Event]) -> None:
        """The buffer is free after these events."""
        with self._changed:
            buffer.free = tuple(after)
            self._idle.append(buffer)
            self._changed.notify_all()

    def close(self) -> None:
        """The update has ended: nobody waits for the other side any more. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class FedSender:
    """A `StreamSender` for tensors that come one at a time: same messages, same digests, same deadlines."""

    def __init__(
        self,
        feed: Feed,
        link: Link,
        device: Device,
        *,
        index: int = 0,
        kernels: BoxKernels | None = None,
        least: int = DIRECT_BYTES,
        digests: bool = True,
    ) -> None:
        self._feed, self._link, self._device, self._index = feed, link, device, index
        self._kernels = kernels or TorchBoxes()
        self._least = least
        self._plan = feed.plan.plan
        self._lanes = Lanes(device, index, "wire", "digest")
        where = device.torch_device(index)
        self._sums = Sums(((bucket, 1) for bucket in self._plan.buckets), where) if digests else None
        self._stamp = stamp_memory(where)

    def prepare(self, sources: object) -> None:
        """Nothing is bound before it is there; `sources` only describes the tensors."""

    def send(self, stamp: bytes, *, deadline: float, on_bucket: OnBucket | None = None) -> tuple[bytes, ...]:
        """See `StreamSender.send`. `deadline` counts the making of the tensors too.

        Raises:
            CommunicatorError: a rank did not come; it is named. The link cannot be used again.
            SyncError: the tensors did not come, or the deadline passed for another reason.
        """
        until = time.monotonic() + deadline
        lanes = self._lanes
        try:
            with self._device.use(self._index):
                nearly = self._queue(stamp, until, on_bucket)
                done = lanes.ends()
            lanes.settle(nearly, self._link, until, "Sending")
            lanes.settle(done, self._link, until, "Sending", soon=True)
        except BaseException:
            self._link.close()
            raise
        if self._sums is None:
            return ()
        found = self._sums.digests()
        return tuple(found[bucket.index] for bucket in self._plan.buckets)

    def _queue(self, stamp: bytes, until: float, on_bucket: OnBucket | None) -> list[Event]:
        lanes, link = self._lanes, self._link
        nearly: list[Event] = []
        lanes.follow_caller()
        with lanes.on("wire") as wire:
            host, here = self._stamp
            host.copy_(stamp_tensor(stamp))
            here.copy_(host, non_blocking=True)
            for audience in audiences_of(self._plan):
                link.send(here, audience, seconds_left(until))
            self._feed.want()
            for bucket in self._plan.buckets:
                buffer = self._feed.take(bucket, until)
                wire.wait_event(buffer.full)
                for cut in cuts_of(bucket, self._least):
                    link.send(buffer.room[cut.start : cut.stop], self._plan.audience(bucket), seconds_left(until))
                sent = lanes.event()
                sent.record(wire)
                users = [sent]
                if self._sums is not None:
                    with lanes.on("digest") as digest:
                        digest.wait_event(buffer.full)
                        whole = buffer.room[: bucket.nbytes]
                        self._kernels.digest([(0, whole)], self._sums.row(bucket.index), bucket.nbytes)()
                    digested = lanes.event()
                    digested.record(digest)
                    users.append(digested)
                self._feed.give_back(buffer, users)
                nearly = [*nearly[-1:], sent]
                if on_bucket is not None:
                    on_bucket(bucket)
        if self._sums is not None:
            with lanes.on("digest"):
                self._sums.fetch()
        return nearly[:-1]
