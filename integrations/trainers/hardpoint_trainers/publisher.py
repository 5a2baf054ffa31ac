"""The trainer's handle: `publish(named_tensors)` returns when every engine has the new weights, or raises."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from hardpoint.communicator import Communicator, CommunicatorFactory, Rendezvous
from hardpoint.errors import CommunicatorError, SyncError
from hardpoint.sync import DEFAULT_BUCKET_BYTES, Manifest, Sender, SyncOutcome, TensorSpec, serve_store
from hardpoint.sync.rendezvous import LOOPBACK, Meeting
from hardpoint.sync.transaction import Mode
from hardpoint_trainers.planned import Options, PlannedSender
from hardpoint_trainers.update import Update, update_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

    from hardpoint.device import Device
    from hardpoint.moe import CheckpointFormat
    from hardpoint.sync import ProgressCallback
    from hardpoint.sync.stream import BoxKernels
    from hardpoint.sync.transaction import DecisionRecord
    from hardpoint_trainers.update import NamedTensors

ENGINE_DEFAULTS = "weights"  # name of the communicator on the store; engines assume the same


class WeightPublisher:
    """Serves a rendezvous, waits for the engines, and sends each update to all of them as a transaction.

    Args:
        host, port: where to listen; loopback and a free port unless told otherwise. Nobody is authenticated there: on
            another interface than loopback, use a network that only the trainer and the engines are on.
        receivers: ranks that take the weights, over all engines (tensor, pipeline and data parallel ranks each count).
        deadline: seconds for the engines to come, for each vote and for each bucket.
        device: where buckets are packed; the device that the backend's communicator works on.
        bucket_bytes: of each of the two buckets.
        communicator: makes the communicator; None for that of the backend that ``HARDPOINT_BACKEND`` selects.
        path: ``plan``: every receiver says what it holds and gets just that, in one transaction of all
            (docs/weight-sync.md); a receiver that cannot say it refuses to join, by name. ``whole``: every receiver
            gets every tensor, and its own loaders cut it. Neither stands in for the other.
        mode: on path ``plan``, how an update is staged: ``auto``, ``shadow``, ``undo`` or ``off``.
        experts: on path ``plan``, the format of tensors that hold all experts of a layer, if there are such.
        drafter: on path ``plan``, updates bring the weights of the engines' drafters too (MTP, EAGLE), under their
            checkpoint names, with ``draft.`` in front if a drafter has a checkpoint of its own. Without it a drafter
            keeps what it has of its own.
        record: on path ``plan``, where decisions are written; a `FileRecord` outlives this process.

    Attributes:
        mode: of the next update.

    Raises:
        SyncError: the address cannot be listened on, or `path` is not one.
    """

    def __init__(
        self,
        host: str = LOOPBACK,
        port: int = 0,
        *,
        receivers: int = 1,
        deadline: float = 60.0,
        device: torch.device | str = "cpu",
        bucket_bytes: int = DEFAULT_BUCKET_BYTES,
        communicator: CommunicatorFactory | None = None,
        path: str = "plan",
        mode: Mode | str = Mode.AUTO,
        experts: CheckpointFormat | None = None,
        drafter: bool = False,
        record: DecisionRecord | None = None,
    ) -> None:
        if path not in ("plan", "whole"):
            raise SyncError(f"A WeightPublisher's path is 'plan' or 'whole', found {path!r}.")
        if receivers < 1:
            raise SyncError(f"A WeightPublisher needs at least one receiver, found receivers={receivers}.")
        self._meeting: Meeting = serve_store(host, port, deadline=deadline)
        self._receivers = receivers
        self._deadline = deadline
        self._device = device
        self._bucket_bytes = bucket_bytes
        self._factory = communicator
        self._communicator: Communicator | None = None
        self._generation = 0
        self._epoch = 0
        if drafter and path != "plan":
            raise SyncError("A drafter's weights come with the target's on path 'plan' only, found path 'whole'.")
        self._path, self._drafter = path, drafter
        self.mode = Mode(mode)
        self._options = Options(bucket_bytes, experts, record)
        self._planned: PlannedSender | None = None

    @property
    def epoch(self) -> int:
        """Of the last update that committed; 0 before the first."""
        return self._epoch

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that the engines join."""
        return self._meeting.host, self._meeting.port

    def init_info(self, rank_offset: int = 1) -> dict[str, Any]:
        """What vLLM's ``init_weight_transfer_engine`` takes for engine ``hardpoint``; one call per engine.

        `rank_offset` is 1 for the first engine and grows by the number of ranks of those before.
        """
        return {
            "host": self._meeting.host,
            "port": self._meeting.port,
            "world_size": self._receivers + 1,
            "rank_offset": rank_offset,
            "name": self._name,
            "deadline": self._deadline,
            "path": self._path,
            "drafter": self._drafter,
        }

    def connect(self, deadline: float | None = None) -> None:
        """Wait until all receivers are here; `publish` does it on first use.

        Raises:
            SyncError: they did not all come within `deadline` seconds.
        """
        limit = self._deadline if deadline is None else deadline
        if self._path == "plan":
            self._meet(limit)
            return
        if self._communicator is not None:
            return
        rendezvous = Rendezvous(
            store=self._meeting.store,
            rank=0,
            world_size=self._receivers + 1,
            name=self._name,
            deadline=limit,
            device_index=_index(self._device),
        )
        try:
            self._communicator = self._make()(rendezvous)
        except CommunicatorError as error:
            self._renew()
            host, port = self.address
            raise SyncError(
                f"Not all of the {self._receivers} receivers came to {host}:{port} within {limit:g} s: {error} Give "
                "every engine publisher.init_info(rank_offset) in init_weight_transfer_engine while the trainer waits, "
                "then publish again."
            ) from error

    def publish(
        self,
        named_tensors: NamedTensors,
        epoch: int | None = None,
        *,
        manifest: Iterable[TensorSpec] | None = None,
        progress: ProgressCallback | None = None,
        deadline: float | None = None,
    ) -> SyncOutcome:
        """Send one update and return when every receiver has verified it.

        Args:
            named_tensors: checkpoint name -> tensor, as a mapping or a list of pairs. With `manifest`, an iterable of
                pairs in its order may make each tensor on demand: one is held at a time, and a few buckets. A callable
                that returns such an iterable needs none: it is walked twice, once to look. See `update_of`.
            epoch: number of this update; None for one more than the last.
            manifest: specs of what will come; an iterable's own ``specs`` if it has them.
            deadline: seconds for each vote, and for the stream: on path ``plan`` for all of it, the making of tensors
                included, on path ``whole`` for each bucket. None for that of the publisher.

        Raises:
            UpdateAborted: a receiver refused, failed or was lost; its `outcome` says who and why.
            SyncError: the receivers never came, or the tensors do not fit the manifest.
        """
        self.connect(deadline)
        number = self._epoch + 1 if epoch is None else epoch
        limit = self._deadline if deadline is None else deadline
        update = update_of(named_tensors, manifest)
        if self._planned is not None:
            if update.named is not None:
                outcome = self._planned.send(update.named, number, self.mode, limit, progress)
            else:
                outcome = self._planned.stream(update.pairs, update.specs, number, self.mode, limit, progress)
        else:
            outcome = self._send_whole(update, number, limit, progress)
        outcome.raise_if_aborted()
        self._epoch = number
        return outcome

    def _send_whole(
        self, update: Update, number: int, deadline: float, progress: ProgressCallback | None
    ) -> SyncOutcome:
        assert self._communicator is not None
        sender = Sender(self._communicator, device=self._device)
        manifest = Manifest(number, update.specs, self._bucket_bytes)
        outcome = sender.send(manifest, update.pairs, progress, deadline=deadline)
        if not outcome and outcome.missing:
            self._renew()  # the others may be anywhere in the session: they must join anew
        return outcome

    def close(self) -> None:
        """Leave the group. Idempotent; the rendezvous ends with the publisher."""
        if self._communicator is not None:
            self._communicator.close()
            self._communicator = None
        if self._planned is not None:
            self._planned.close()
            self._planned = None

    def __enter__(self) -> WeightPublisher:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def _name(self) -> str:
        return ENGINE_DEFAULTS if self._generation == 0 else f"{ENGINE_DEFAULTS}-{self._generation}"

    def _meet(self, deadline: float) -> None:
        if self._planned is None:
            self._planned = PlannedSender(
                self._meeting,
                self._name,
                self._receivers,
                self._make(),
                self._where(),
                _index(self._device),
                self._options,
                self._box_kernels(),
            )
        self._epoch = max(self._epoch, self._planned.meet(deadline))

    def _where(self) -> Device:
        import torch

        from hardpoint import get_backend
        from hardpoint.device import HostDevice

        return HostDevice() if torch.device(self._device).type == "cpu" else get_backend().device

    def _box_kernels(self) -> BoxKernels | None:
        """What packs on the trainer's device; None for torch's own operations, which are as good on the host."""
        import torch

        from hardpoint import get_backend

        return None if torch.device(self._device).type == "cpu" else get_backend().box_kernels

    def _renew(self) -> None:
        """Meet under a new name next time: the keys of a group that lost a member are of no use."""
        self.close()
        self._generation += 1

    def _make(self) -> Callable[[Rendezvous], Communicator]:
        if self._factory is not None:
            return self._factory
        from hardpoint import get_backend

        factory: CommunicatorFactory = get_backend().communicator
        return factory


def _index(device: torch.device | str) -> int:
    import torch

    return torch.device(device).index or 0
