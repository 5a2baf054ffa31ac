"""`PlannedUpdates`: this worker's part in updates by a plan, from the day a trainer is known until it is not.

The sync runs in a thread of its own and takes what the trainer sends while the engine serves; the worker comes to the
gate in `update_weights`, and there the update is put in, voted on and committed, or is not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from hardpoint.communicator.through_host import through_host
from hardpoint.device import HostDevice
from hardpoint.errors import SyncError
from hardpoint.sync.remote import DataPlane, Directory, ReceiverLink
from hardpoint.sync.stream import open_link
from hardpoint.sync.transaction import Message, Outgoing, Participant, Phase, Room, Unplanned, Weights
from hardpoint.sync.transaction.messages import Begin
from hardpoint_vllm.weight_transfer.commit import CommitFailed
from hardpoint_vllm.weight_transfer.planned.gate import Gate
from hardpoint_vllm.weight_transfer.planned.inspect import refuse_nonfinite_staged
from hardpoint_vllm.weight_transfer.planned.staging import ModelWeights

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

    from hardpoint.backend import Backend
    from hardpoint_vllm.weight_transfer.info import HardpointInitInfo
    from hardpoint_vllm.weight_transfer.planned.served import Served

_logger = logging.getLogger("vllm.hardpoint.weight_transfer")


@dataclass(frozen=True)
class Place:
    """Who this worker is to the trainer.

    Attributes:
        rank: among all that take weights.
        at: where it stands in its engine.
        beside: workers that share this host's memory, itself included.
    """

    rank: int
    at: str
    beside: int = 1


class PlannedUpdates:
    """Declares this worker's parameters to the trainer and takes its updates.

    Args:
        served: the models that an update fills.
        after: the updates of an earlier trainer, which have ended.

    Raises:
        SyncError: the model cannot be planned, or an earlier trainer's update is still under way.
    """

    def __init__(
        self,
        info: HardpointInitInfo,
        store: Store,
        place: Place,
        backend: Backend,
        device: torch.device,
        served: Served,
        after: PlannedUpdates | None = None,
    ) -> None:
        declared = served.declaration()
        self._info, self._place, self._device, self._served = info, place, device, served
        self._directory = Directory(store, info.name)
        self._members = tuple(range(1, info.world_size))
        inspect = refuse_nonfinite_staged if info.nonfinite == "refuse" else _anything
        self.gate = Gate(lambda: _room(backend, device, place.beside), inspect, info.deadline * 0.75, self._say)
        self._participant: Participant = _Announcing(
            self.gate.announce,
            Unplanned(place.rank, self._members),
            find=self._find,
            hooks=self.gate,
            on_end=self.gate.ended,
            after=None if after is None else after.participant,
        )
        index = device.index or 0
        factory = through_host(backend.device) if info.transport == "host" else backend.communicator

        def opened(name: str, audiences: tuple[tuple[int, ...], ...], deadline: float) -> Any:
            from hardpoint.communicator.store import connection_of_its_own

            connection = connection_of_its_own(store)
            return open_link(
                factory,
                connection,
                place.rank,
                audiences,
                name=name,
                device_index=index,
                deadline=deadline,
            )

        plane = DataPlane(opened, backend.device, index, kernels=backend.box_kernels)
        self._link = ReceiverLink(self._participant, store, info.name, plane, changed=self.gate.poke)
        self._directory.declare(place.rank, declared, self._participant.epoch, place.at)

    @property
    def participant(self) -> Participant:
        """What it knows outlives the trainer."""
        return self._participant

    @property
    def rank(self) -> int:
        return self._place.rank

    @property
    def under_way(self) -> int | None:
        """Epoch of the update that has begun and not ended; None if there is none."""
        begin = self._participant.under_way
        return None if begin is None else begin.epoch

    @property
    def epoch(self) -> int:
        """Of the weights that serve; 0 for those that the engine was started on."""
        return self._participant.epoch

    @property
    def received_bytes(self) -> int:
        """Payload of one update for this worker; SyncError before the first."""
        return self._participant.plan.received_bytes(self._place.rank)

    def take(self, start_deadline: float, expected: int | None) -> int:
        """Wait for the trainer's update and be part of it; its epoch, if it is committed.

        Raises:
            SyncError: no update came, or it was refused; the old weights serve.
            CommitFailed: this worker's weights are not whole, or it does not know what was decided.
        """
        who = self._participant
        ending = self.gate.wait(start_deadline, lambda: self.under_way, expected)
        if who.phase is Phase.FAILED:
            raise CommitFailed(f"{who.reason}. A full update ends this.")
        if ending is None:
            lost = f" ({self._link.lost})" if self._link.lost else ""
            raise SyncError(
                f"rank 0 (the trainer) began no update within {start_deadline:g} s{lost}; the old weights serve."
            )
        if not ending.committed:
            raise SyncError(f"Weight update of epoch {ending.epoch} aborted, the old weights stay: {ending.reason}")
        return ending.epoch

    def close(self) -> None:
        """Take no more part; what serves goes on."""
        self._link.close()

    def _find(self, wanted: str) -> Weights | None:
        proposal = self._directory.proposal(wanted)
        if proposal is None:
            return None
        entries = self._directory.entries(self._members, self._info.deadline)
        plan = self._directory.plan(entries.values(), proposal.offer, proposal.bucket_bytes)
        return ModelWeights(plan, self._place.rank, self._served, self._device, self.gate)

    def _say(self, sentence: str) -> None:
        _logger.info("hardpoint: rank %d: %s", self._place.rank, sentence)


class _Announcing(Participant):
    """Says which epoch begins before anything is done for it."""

    def __init__(self, announce: Callable[[int], None], *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._announce = announce

    def receive(self, message: Message, now: float) -> list[Outgoing]:
        """See `Participant.receive`."""
        if isinstance(message, Begin):
            self._announce(message.epoch)
        return super().receive(message, now)


def _room(backend: Backend, device: torch.device, beside: int) -> Room:
    """Free memory of the device, and this worker's share of what is free on the host."""
    free = backend.device.memory(device.index or 0).free
    host = HostDevice().memory(0).free // beside
    return Room(min(free, host) if device.type == "cpu" else free, host)


def _anything(staged: object) -> None:
    """Infinity and NaN are allowed."""
