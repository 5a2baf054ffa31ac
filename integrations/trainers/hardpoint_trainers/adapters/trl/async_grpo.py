"""For ``trl.experimental.async_grpo.AsyncGRPOTrainer(weight_transfer=...)``: TRL's own protocol for weight sync."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hardpoint.sync import DEFAULT_BUCKET_BYTES
from hardpoint_trainers.adapters.engines import HttpEngine
from hardpoint_trainers.adapters.gathered import Gathered
from hardpoint_trainers.adapters.route import Route
from hardpoint_trainers.publisher import WeightPublisher

if TYPE_CHECKING:
    import torch

    from hardpoint.communicator import CommunicatorFactory
    from hardpoint.sync import SyncOutcome


@dataclass
class AsyncWeightTransfer:
    """TRL's `WeightTransferProtocol`. Made on every rank; used on the main one, where TRL calls it.

    TRL gathers one parameter after the other and hands them over by runtime name; what comes is converted to the
    checkpoint and published as one transaction. After a refusal the server is resumed before the error is raised: it
    has its old weights, whole.

    Args:
        model: the trainer's, for names and shapes; not wrapped by DDP.
        engine: the server.
        receivers: workers of the server.
        device: where buckets are packed.
    """

    model: torch.nn.Module
    engine: HttpEngine
    receivers: int = 1
    deadline: float = 120.0
    bucket_bytes: int = DEFAULT_BUCKET_BYTES
    device: torch.device | str = "cpu"
    communicator: CommunicatorFactory | None = None
    route: Route | None = field(default=None, init=False)
    last: SyncOutcome | None = field(default=None, init=False)

    def init_weight_transfer(self) -> None:
        """Meet the server."""
        publisher = WeightPublisher(
            receivers=self.receivers,
            deadline=self.deadline,
            device=self.device,
            bucket_bytes=self.bucket_bytes,
            communicator=self.communicator,
        )
        self.route = Route(publisher, ((self.engine, 1),), deadline=self.deadline, alone=True)
        self.route.connect()

    def pause(self) -> None:
        """Hold the server's requests; they go on with the new weights."""
        self.engine.post("/pause?mode=keep", {})

    def send_weights(self, iterator: Iterator[tuple[str, torch.Tensor]]) -> None:
        """Publish what TRL gathers.

        Raises:
            UpdateAborted, SyncError: refused; the server serves its old weights and is resumed.
        """
        assert self.route is not None, "TRL calls init_weight_transfer first"
        try:
            self.last = self.route.send(Gathered(self.model, iterator))
        except Exception:
            self.resume()
            raise

    def resume(self) -> None:
        """Let the server go on."""
        self.engine.post("/resume", {})

    def destroy(self) -> None:
        """Leave the group."""
        if self.route is not None:
            self.route.close()
            self.route = None
