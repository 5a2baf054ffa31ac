"""An engine's end of an update: everything is staged and verified; nothing that serves is touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING

import torch

from hardpoint.errors import SyncError
from hardpoint.sync.buckets import Bucket, plan_buckets
from hardpoint.sync.digest import DIGEST_BYTES, byte_view, tensor_digest
from hardpoint.sync.dtypes import torch_dtype
from hardpoint.sync.frame import HEADER_BYTES, Header, Kind, check_header
from hardpoint.sync.lane import Lane
from hardpoint.sync.manifest import LIMITS, Manifest, ManifestLimits
from hardpoint.sync.message import new_message, read_header, to_bytes
from hardpoint.sync.outcome import Progress, ProgressCallback, Received
from hardpoint.sync.session import FOLLOWED, Aborted, Session, describe

if TYPE_CHECKING:
    from hardpoint.communicator import Communicator

Accept = Callable[[Manifest], None]
Inspect = Callable[[Mapping[str, torch.Tensor]], None]


class Receiver:
    """Receives updates from rank `src`.

    Args:
        device: where tensors are staged, and where the communicator's tensors live.
        accept: called with each manifest before a byte of its tensors moves; refuses it by raising SyncError.
        inspect: called with all tensors after their digests were right and before the last vote; refuses the update on
            every rank by raising SyncError.
        limits: what a manifest may ask for.
        committed_epoch: of the weights that serve; an update must have a higher one, so a replay is refused.
    """

    def __init__(
        self,
        communicator: Communicator,
        src: int = 0,
        *,
        device: torch.device | str = "cpu",
        accept: Accept | None = None,
        inspect: Inspect | None = None,
        limits: ManifestLimits = LIMITS,
        committed_epoch: int = -1,
    ) -> None:
        if communicator.rank == src:
            raise SyncError(f"Rank src={src} sends; a Receiver runs on the other ranks of the communicator.")
        self._communicator = communicator
        self._src = src
        self._device = torch.device(device)
        self._accept = accept
        self._inspect = inspect
        self._limits = limits
        self.committed_epoch = committed_epoch

    def receive(
        self,
        deadline: float | None = None,
        *,
        progress: ProgressCallback | None = None,
        start_deadline: float | None = None,
    ) -> Received:
        """Take part in one update.

        Args:
            deadline: seconds for each vote and each bucket; None for the communicator's own.
            start_deadline: seconds to wait for the sender to begin, if that may take longer.

        Returns:
            The outcome; with the staged tensors by checkpoint name, on `device`, if it committed. Whoever commits them
            to a model must take all or none.

        Raises:
            Exception: what `accept` or `progress` raised other than SyncError, or a failed allocation, after the other
                ranks were told.
        """
        session = Session(self._communicator, self._src, deadline)
        staging: _Staging | None = None
        try:
            session.open(deadline=start_deadline)
            header = self._header(session)
            staging = self._begin(session, header)
            staging.stream(session, header, progress)
            staging.decide(session, self._inspect)
        except Aborted as aborted:
            outcome = session.end(aborted, staging.wrong if staging else ())
            return Received(outcome, staging.manifest if staging else None, {})
        self.committed_epoch = session.epoch
        return Received(session.end(), staging.manifest, staging.tensors)

    def _header(self, session: Session) -> Header:
        session.step = "header"
        message = new_message(0, self._device)
        session.broadcast(message)
        try:
            header = read_header(message)
            self._check(header)
        except SyncError as error:
            session.refuse("header", str(error))
        session.epoch = header.epoch
        session.vote("header", True)
        return header

    def _check(self, header: Header) -> None:
        if header.kind is not Kind.MANIFEST:
            raise SyncError(f"Message refused: expected a manifest, found {header.kind.name}.")
        if header.payload_bytes > self._limits.message_bytes:
            raise SyncError(
                f"Manifest refused: {header.payload_bytes} bytes, at most {self._limits.message_bytes} are accepted."
            )
        if header.epoch <= self.committed_epoch:
            raise SyncError(
                f"Update refused: it has epoch {header.epoch}, but epoch {self.committed_epoch} is already committed "
                "here. The epoch must grow; a trainer that starts again must go on from the engine's."
            )

    def _begin(self, session: Session, header: Header) -> _Staging:
        session.step = "begin"
        message = torch.empty(header.payload_bytes, dtype=torch.uint8, device=self._device)
        session.broadcast(message)
        try:
            manifest = Manifest.from_bytes(to_bytes(message), self._limits)
            if manifest.epoch != header.epoch:
                raise SyncError(f"Manifest refused: epoch {manifest.epoch} inside, {header.epoch} in its header.")
            if self._accept is not None:
                self._accept(manifest)
            staging = _Staging(manifest, self._device)
        except SyncError as error:
            session.refuse("begin", str(error))
        except BaseException as error:
            session.object_to("begin", error)
            raise
        session.manifest_digest = manifest.digest()
        session.bytes = manifest.total_bytes
        session.vote("begin", True, digest=session.manifest_digest)
        return staging


class _Staging:
    """The tensors of one update on their way in."""

    def __init__(self, manifest: Manifest, device: torch.device) -> None:
        self.manifest = manifest
        self.wrong: tuple[str, ...] = ()
        self._device = device
        self._plan = plan_buckets([spec.nbytes for spec in manifest.tensors], manifest.bucket_bytes)
        self.tensors = {
            spec.name: torch.empty(spec.shape, dtype=torch_dtype(spec.dtype), device=device)
            for spec in manifest.tensors
        }
        self._raw = [byte_view(tensor) for tensor in self.tensors.values()]
        size = max((bucket.nbytes for bucket in self._plan), default=0)
        self._buffers = [new_message(size, device) for _ in range(min(2, len(self._plan)))]
        self._refusal = ""
        self._error: BaseException | None = None
        self._sent = b""

    def stream(self, session: Session, first: Header, progress: ProgressCallback | None) -> None:
        """Receive all buckets and the digests. What goes wrong here is kept for the vote: the others must not wait."""
        session.step = "stream"
        done = 0
        with Lane(self._device) as lane:
            flight = self._post(lane, session, 0)
            for bucket in self._plan:
                assert flight is not None
                flight.result()
                message = self._message(bucket)
                if self._read(message, Header(Kind.BUCKET, bucket.index, first.session, first.epoch, bucket.nbytes)):
                    return
                flight = self._post(lane, session, bucket.index + 1)
                if self._refusal:
                    continue
                try:
                    self._unpack(bucket, message)
                    done += sum(piece.nbytes for piece in bucket.pieces)
                    if progress is not None:
                        progress(Progress(done, self.manifest.total_bytes, bucket.index + 1, len(self._plan)))
                except Exception as error:  # noqa: BLE001 - raised again by decide(), after the vote
                    self._refusal, self._error = describe(error), error
        message = new_message(DIGEST_BYTES * len(self._raw), self._device)
        session.broadcast(message)
        size = DIGEST_BYTES * len(self._raw)
        if not self._read(message, Header(Kind.DIGESTS, 0, first.session, first.epoch, size)):
            self._sent = to_bytes(message[HEADER_BYTES:])

    def decide(self, session: Session, inspect: Inspect | None) -> None:
        """Compare the digests and vote. Raises `Aborted`, or this rank's own error after the others were told."""
        if not self._refusal and self._sent:
            self._verify()
        if inspect is not None and not self._refusal:
            try:
                inspect(self.tensors)
            except SyncError as error:
                self._refusal = str(error)
            except Exception as error:  # noqa: BLE001 - raised again below, after the others were told
                self._error = error
        if self._error is not None:
            session.object_to("commit", self._error)
            raise self._error
        session.vote("commit", not self._refusal, self._refusal, session.manifest_digest)

    def _verify(self) -> None:
        wrong = []
        for index, (name, tensor) in enumerate(self.tensors.items()):
            if tensor_digest(tensor) != self._sent[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]:
                wrong.append(name)
        if wrong:
            self.wrong = tuple(wrong)
            more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            self._refusal = (
                f"{len(wrong)} of {len(self._raw)} tensors differ from what was sent: {', '.join(wrong[:5])}{more}"
            )

    def _read(self, message: torch.Tensor, expected: Header) -> bool:
        """True if the sender aborts. A message that is not the expected one becomes this rank's refusal."""
        try:
            header = read_header(message)
            check_header(header, expected)
        except SyncError as error:
            self._refusal = self._refusal or str(error)
            return False
        if header.kind is not Kind.ABORT:
            return False
        self._refusal = self._refusal or FOLLOWED
        return True

    def _post(self, lane: Lane, session: Session, index: int) -> Future[None] | None:
        if index >= len(self._plan):
            return None
        message = self._message(self._plan[index])
        return lane.submit(lambda: session.broadcast(message))

    def _message(self, bucket: Bucket) -> torch.Tensor:
        return self._buffers[bucket.index % 2][: HEADER_BYTES + bucket.nbytes]

    def _unpack(self, bucket: Bucket, message: torch.Tensor) -> None:
        payload = message[HEADER_BYTES:]
        for piece in bucket.pieces:
            target = self._raw[piece.tensor][piece.tensor_offset : piece.tensor_offset + piece.nbytes]
            target.copy_(payload[piece.bucket_offset : piece.bucket_offset + piece.nbytes])
