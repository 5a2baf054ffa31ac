"""verl's `CheckpointEngine` as a transaction: no rollout worker gets a tensor before all have all of them, verified.

What verl then does with the tensors (its own bucket over IPC, vLLM's `load_weights`) is verl's; an error there is its
error. What ends here: half updates, hangs on a dead rank, and metadata that is unpickled from a socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any

import torch
from verl.checkpoint_engine.base import CheckpointEngine, CheckpointEngineRegistry

from hardpoint.communicator import Communicator, CommunicatorFactory, Rendezvous
from hardpoint.errors import SyncError
from hardpoint.sync import Manifest, Receiver, Sender, SyncOutcome, join_store, serve_store
from hardpoint.sync.rendezvous import LOOPBACK, Meeting
from hardpoint_trainers.adapters.meeting import OUTSIDE, topology
from hardpoint_trainers.adapters.publishing import gather_to_the_end
from hardpoint_trainers.adapters.remembered import Remembered

_ALIGNMENT = 64


@CheckpointEngineRegistry.register("hardpoint")  # type: ignore[untyped-decorator, unused-ignore]
class HardpointCheckpointEngine(CheckpointEngine):  # type: ignore[misc, unused-ignore]
    """Made by verl on every actor and rollout worker.

    Args:
        bucket_size: bytes of each of two buckets, verl's ``update_weights_bucket_megabytes``.
        is_master: whether this worker sends; verl says so to the first actor.
        host: where the sender listens, by ``engine_kwargs.hardpoint.host``. Loopback unless told otherwise; with
            rollouts on other machines, the address of the network that only they and the trainer share.
        deadline: seconds for joining, each vote and each bucket.
        start_deadline: seconds that a rollout waits for the sender to begin: the actor gathers its first tensors then.
        communicator: makes the communicator; None for that of the backend that ``HARDPOINT_BACKEND`` selects.
    """

    def __init__(
        self,
        bucket_size: int,
        is_master: bool = False,
        host: str = LOOPBACK,
        deadline: float = 120.0,
        start_deadline: float = 1800.0,
        communicator: CommunicatorFactory | None = None,
    ) -> None:
        self.bucket_size = max(_ALIGNMENT, bucket_size // _ALIGNMENT * _ALIGNMENT)
        self.is_master = is_master
        self._host, self._deadline, self._start = host, deadline, start_deadline
        self._factory = communicator
        self._meeting: Meeting | None = None
        self._communicator: Communicator | None = None
        self._joined: tuple[str, int, int] | None = None  # name, rank and world size of the group
        self._generation = 0
        self._epoch = 0
        self._remembered = Remembered()
        self.rank: int | None = None

    def prepare(self) -> dict[str, Any]:
        """Where the group meets, from the sender; empty from all others. The group is kept from update to update."""
        if not self.is_master:
            return {}
        if self._meeting is None:
            self._meeting = serve_store(self._host, deadline=self._deadline)
        return {
            "host": self._meeting.host,
            "port": self._meeting.port,
            "name": f"verl-{self._generation}",
            "deadline": self._deadline,
        }

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[dict[str, Any]]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Rank 0 sends, every rollout worker receives, the other actors only gather."""
        return topology(actor_wg_world_size, rollout_world_size, metadata)

    def init_process_group(self, rank: int, world_size: int, meeting: Mapping[str, Any]) -> None:
        """Join, unless this worker is in that group already.

        Raises:
            SyncError, CommunicatorError: the others did not come within the deadline.
        """
        self.rank = rank
        wanted = (str(meeting["name"]), rank, world_size)
        if rank == OUTSIDE or self._joined == wanted:
            return
        self._leave()
        store = self._meeting.store if self._meeting is not None else None
        if store is None:
            store = join_store(str(meeting["host"]), int(meeting["port"]), deadline=self._deadline).store
        index = torch.accelerator.current_device_index() if torch.accelerator.is_available() else 0
        self._communicator = self._make(Rendezvous(store, rank, world_size, wanted[0], self._deadline, index))
        self._joined = wanted

    def finalize(self) -> None:
        """After an update. The group stays for the next one."""

    async def send_weights(
        self, weights: Iterable[tuple[str, torch.Tensor]], global_steps: int | None = None
    ) -> dict[str, float]:
        """Send one update; verl's metrics of it.

        Raises:
            UpdateAborted: a rollout worker refused it or was lost; none of them has a tensor of it.
        """
        pairs = iter(weights)
        if self.rank == OUTSIDE:
            for _ in pairs:
                pass
            return {}
        if self.rank != 0:
            raise SyncError(f"Rank 0 sends, this is rank {self.rank}.")
        loop = asyncio.get_running_loop()
        try:
            outcome = await loop.run_in_executor(None, self._send, pairs)
        finally:
            gather_to_the_end(pairs)
        outcome.raise_if_aborted()
        return {"hardpoint/seconds": outcome.seconds, "hardpoint/bytes": float(outcome.bytes)}

    async def receive_weights(self, global_steps: int | None = None) -> AsyncGenerator[tuple[str, torch.Tensor], None]:
        """Give the tensors of one update, once every rollout worker has all of them, verified.

        Raises:
            UpdateAborted: before the first tensor is given.
        """
        loop = asyncio.get_running_loop()
        tensors = await loop.run_in_executor(None, self._receive)
        while tensors:
            name = next(iter(tensors))
            yield name, tensors.pop(name)

    def _send(self, pairs: Any) -> SyncOutcome:
        communicator = self._group()
        specs, tensors = self._remembered.round(pairs)
        manifest = Manifest(self._epoch + 1, specs, self.bucket_size)
        sender = Sender(communicator, device=self._device())
        outcome = sender.send(manifest, tensors, deadline=self._deadline)
        self._epoch = manifest.epoch
        self._settle(outcome)
        return outcome

    def _receive(self) -> dict[str, torch.Tensor]:
        communicator = self._group()
        receiver = Receiver(communicator, device=self._device(), committed_epoch=self._epoch)
        received = receiver.receive(self._deadline, start_deadline=self._start)
        self._settle(received.outcome)
        received.outcome.raise_if_aborted()
        self._epoch = received.outcome.epoch
        return dict(received.tensors)

    def _settle(self, outcome: SyncOutcome) -> None:
        if not outcome and (outcome.missing or outcome.undecided):
            self._leave()  # the others may be anywhere in the session: meet anew, under another name
            self._generation += 1

    def _group(self) -> Communicator:
        if self._communicator is None:
            raise SyncError("This worker is in no group: verl calls init_process_group before each update.")
        return self._communicator

    def _leave(self) -> None:
        communicator, self._communicator, self._joined = self._communicator, None, None
        if communicator is not None:
            communicator.close()

    def _make(self, rendezvous: Rendezvous) -> Communicator:
        if self._factory is not None:
            return self._factory(rendezvous)
        from hardpoint import get_backend

        made: Communicator = get_backend().communicator(rendezvous)
        return made

    def _device(self) -> torch.device:
        """Where buckets and staged tensors are: the device that the communicator works on."""
        if self._factory is not None:
            return torch.device("cpu")
        from hardpoint import get_backend

        kind = get_backend().info.device_type
        return torch.device("cpu") if kind == "cpu" else torch.device(kind, torch.accelerator.current_device_index())
