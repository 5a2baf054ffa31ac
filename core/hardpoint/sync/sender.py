"""The trainer's end of an update."""

from __future__ import annotations

import secrets
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING

import torch

from hardpoint.errors import SyncError
from hardpoint.sync.buckets import Bucket, plan_buckets
from hardpoint.sync.feed import Feed, NamedTensors
from hardpoint.sync.frame import HEADER_BYTES, Header, Kind
from hardpoint.sync.lane import Lane
from hardpoint.sync.manifest import Manifest
from hardpoint.sync.message import from_bytes, new_message, write_header
from hardpoint.sync.outcome import Progress, ProgressCallback, SyncOutcome
from hardpoint.sync.session import Aborted, Session

if TYPE_CHECKING:
    from hardpoint.communicator import Communicator

_IN_FLIGHT = 2


class Sender:
    """Sends updates to every other rank of `communicator`.

    Memory beyond the tensors themselves: two buckets, and a contiguous copy of the one tensor in hand if it needs one.
    """

    def __init__(self, communicator: Communicator, src: int = 0, *, device: torch.device | str = "cpu") -> None:
        if communicator.rank != src:
            raise SyncError(f"A Sender runs on rank src={src}, this is rank {communicator.rank}; use a Receiver here.")
        self._communicator = communicator
        self._src = src
        self._device = torch.device(device)

    def send(
        self,
        manifest: Manifest,
        named_tensors: NamedTensors,
        progress: ProgressCallback | None = None,
        *,
        deadline: float | None = None,
    ) -> SyncOutcome:
        """Send one update and say whether every receiver has it.

        Args:
            named_tensors: a mapping, or pairs in the manifest's order (a generator may make each on demand).
            deadline: seconds for each vote and each bucket; None for the communicator's own.

        Returns:
            The outcome that all ranks agreed on; aborted if a receiver refused, failed, or did not answer in time.

        Raises:
            Exception: what `named_tensors` or `progress` raised, after the receivers were told.
            SyncError: the tensors do not fit the manifest, after the receivers were told.
        """
        session = Session(self._communicator, self._src, deadline)
        update = _Update(manifest, secrets.token_bytes(16), self._device)
        session.epoch = manifest.epoch
        try:
            feed = self._open(session, update, named_tensors)
            self._stream(session, update, feed, progress)
            session.vote("commit", True, digest=session.manifest_digest)
        except Aborted as aborted:
            return session.end(aborted)
        return session.end()

    def _open(self, session: Session, update: _Update, named_tensors: NamedTensors) -> Feed:
        try:
            data = update.manifest.to_bytes()
            feed = Feed(update.manifest, named_tensors)
            update.allocate()
        except BaseException as error:
            session.object_to("open", error)
            raise
        session.manifest_digest = update.manifest.digest()
        session.bytes = update.manifest.total_bytes
        session.open()
        session.step = "header"
        session.broadcast(from_bytes(update.header(Kind.MANIFEST, 0, len(data)).to_bytes(), self._device))
        session.vote("header", True)
        session.step = "begin"
        session.broadcast(from_bytes(data, self._device))
        session.vote("begin", True, digest=session.manifest_digest)
        return feed

    def _stream(self, session: Session, update: _Update, feed: Feed, progress: ProgressCallback | None) -> None:
        session.step = "stream"
        done = 0
        with Lane(self._device) as lane:
            pending: deque[Future[None]] = deque()
            for bucket in update.plan:
                if len(pending) == _IN_FLIGHT:
                    pending.popleft().result()
                message = update.message(bucket)
                try:
                    update.pack(bucket, message, feed)
                    done += sum(piece.nbytes for piece in bucket.pieces)
                    if progress is not None:
                        progress(Progress(done, update.manifest.total_bytes, bucket.index + 1, len(update.plan)))
                except BaseException as error:
                    _finish(pending)
                    self._abort(session, update, message, bucket.index, error)
                    raise
                pending.append(lane.submit(lambda sent=message: session.broadcast(sent)))  # type: ignore[misc]
            _finish(pending)
        digests = update.digest_message()
        try:
            feed.finish()
            update.fill_digests(digests, feed.digests)
        except BaseException as error:
            self._abort(session, update, digests, 0, error)
            raise
        session.broadcast(digests)

    def _abort(
        self, session: Session, update: _Update, message: torch.Tensor, index: int, error: BaseException
    ) -> None:
        write_header(message, update.header(Kind.ABORT, index, 0))
        try:
            session.broadcast(message)
        except Aborted:
            return  # a receiver is gone too; the caller gets `error`, the receivers their deadline
        session.object_to("commit", error)


class _Update:
    """One update's plan and its two message buffers."""

    def __init__(self, manifest: Manifest, session_id: bytes, device: torch.device) -> None:
        self.manifest = manifest
        self.session_id = session_id
        self.device = device
        self.plan = plan_buckets([spec.nbytes for spec in manifest.tensors], manifest.bucket_bytes)
        self._buffers: list[torch.Tensor] = []

    def allocate(self) -> None:
        size = max((bucket.nbytes for bucket in self.plan), default=0)
        self._buffers = [new_message(size, self.device) for _ in range(min(_IN_FLIGHT, len(self.plan)))]

    def header(self, kind: Kind, index: int, payload_bytes: int) -> Header:
        return Header(kind, index, self.session_id, self.manifest.epoch, payload_bytes)

    def message(self, bucket: Bucket) -> torch.Tensor:
        return self._buffers[bucket.index % _IN_FLIGHT][: HEADER_BYTES + bucket.nbytes]

    def pack(self, bucket: Bucket, message: torch.Tensor, feed: Feed) -> None:
        write_header(message, self.header(Kind.BUCKET, bucket.index, bucket.nbytes))
        payload = message[HEADER_BYTES:]
        for piece in bucket.pieces:
            source = feed.bytes_of(piece.tensor)[piece.tensor_offset : piece.tensor_offset + piece.nbytes]
            payload[piece.bucket_offset : piece.bucket_offset + piece.nbytes].copy_(source)

    def digest_message(self) -> torch.Tensor:
        from hardpoint.sync.digest import DIGEST_BYTES

        return new_message(DIGEST_BYTES * len(self.manifest.tensors), self.device)

    def fill_digests(self, message: torch.Tensor, digests: list[bytes]) -> None:
        data = b"".join(digests)
        write_header(message, self.header(Kind.DIGESTS, 0, len(data)))
        message[HEADER_BYTES:].copy_(from_bytes(data, torch.device("cpu")))


def _finish(pending: deque[Future[None]]) -> None:
    while pending:
        pending.popleft().result()
