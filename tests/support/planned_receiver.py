"""A receiver on path ``plan`` in this process: what an engine's worker does, with plain tensors for a model."""

from __future__ import annotations

from typing import Any

import torch

from hardpoint.communicator.store import connection_of_its_own
from hardpoint.sync import join_store
from hardpoint.sync.plan import Destination, Offer, Part, Storages
from hardpoint.sync.plan.declaration import Declaration
from hardpoint.sync.plan.strides import contiguous
from hardpoint.sync.remote import DataPlane, Directory, ReceiverLink
from hardpoint.sync.stream import open_link
from hardpoint.sync.transaction import Ending, Participant, Unplanned, Weights
from hardpoint.sync.transaction.weights import InPlace
from support.sync_processes import gloo


class PlannedReceiver:
    """Takes what a publisher sends into `live`, by the names of its tensors, from now on until `close`."""

    def __init__(self, init_info: dict[str, Any], live: dict[str, torch.Tensor], rank: int = 1) -> None:
        self.live, self.endings = live, list[Ending]()
        store = join_store(init_info["host"], init_info["port"], deadline=10.0).store
        self._members = tuple(range(1, init_info["world_size"]))
        self._directory = Directory(store, init_info["name"])
        self._directory.declare(rank, Declaration(tuple(_whole(name, of) for name, of in live.items()), ()), 0, "here")

        def opened(name: str, audiences: Any, deadline: float) -> Any:
            return open_link(gloo, connection_of_its_own(store), rank, audiences, name=name, deadline=deadline)

        self.participant = Participant(Unplanned(rank, self._members), find=self._find, on_end=self.endings.append)
        self._link = ReceiverLink(self.participant, store, init_info["name"], DataPlane(opened))

    def close(self) -> None:
        self._link.close()

    def _find(self, wanted: str) -> Weights | None:
        proposal = self._directory.proposal(wanted)
        if proposal is None:
            return None
        entries = self._directory.entries(self._members, 5.0)
        plan = self._directory.plan(entries.values(), proposal.offer, proposal.bucket_bytes)
        return InPlace(Storages(plan, self.participant.rank, self.live))


def _whole(name: str, of: torch.Tensor) -> Destination:
    shape = tuple(of.shape)
    (spec,) = Offer.of({name: of}).tensors
    strides = contiguous(shape)
    part = Part((name,), shape, "", 0, strides, (0,) * len(shape), shape)
    return Destination(name, spec.dtype, shape, shape, strides, (part,), ())
