"""An engine as trainers see it, in their own process: a real receiver behind vLLM's calls, without vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hardpoint.communicator import Communicator, Rendezvous
from hardpoint.errors import SyncError
from hardpoint.sync import Receiver, join_store
from hardpoint_trainers import WeightPublisher
from hardpoint_trainers.adapters.route import Route
from hardpoint_trainers.sharded import CheckpointStream
from support.sharded_trainer import shard, trainer_group
from support.sync_processes import gloo
from support.trainer_models import tiny_trainer_moe


class ReceivingEngine:
    """Serves `live`; `refuse` and `fail` plant faults. `worker` is its rank among the launcher's."""

    def __init__(self, worker: int = 0, deadline: float = 10.0) -> None:
        self.worker, self.deadline = worker, deadline
        self.live: dict[str, torch.Tensor] = {}
        self.refuse = ""
        self.fail: dict[str, Exception] = {}
        self.calls: list[str] = []
        self._staged: Mapping[str, torch.Tensor] | None = None
        self._communicator: Communicator | None = None
        self._epoch = -1

    def join(self, init_info: Mapping[str, Any]) -> None:
        self._called("join")
        if self._communicator is not None:
            self._communicator.close()
        meeting = join_store(init_info["host"], init_info["port"], deadline=self.deadline)
        rank = int(init_info["rank_offset"]) + self.worker
        world = int(init_info["world_size"])
        self._communicator = gloo(Rendezvous(meeting.store, rank, world, str(init_info["name"]), self.deadline))

    def start(self) -> None:
        self._called("start")
        self._staged = None

    def update(self, update_info: Mapping[str, Any]) -> None:
        self._called("update")
        assert self._communicator is not None

        def accept(_: Any) -> None:
            if self.refuse:
                raise SyncError(self.refuse)

        received = Receiver(self._communicator, accept=accept, committed_epoch=self._epoch).receive(self.deadline)
        received.outcome.raise_if_aborted()
        assert received.outcome.epoch == update_info["epoch"]
        self._staged = received.tensors

    def finish(self) -> None:
        self._called("finish")
        assert self._staged is not None
        self.live = dict(self._staged)
        self._epoch += 1

    def close(self) -> None:
        if self._communicator is not None:
            self._communicator.close()

    def _called(self, what: str) -> None:
        self.calls.append(what)
        if what in self.fail:
            raise self.fail.pop(what)


def train_colocated(store: Any, rank: int, world: int, layout: str) -> dict[str, Any]:
    """Every rank trains a shard and hosts an engine, as TRL colocates them; two updates, one refused on rank 1."""
    with trainer_group(store, rank, world):
        model = tiny_trainer_moe()
        shard(model, layout, world)
        stream = CheckpointStream(model, bucket_bytes=1 << 14)
        publisher = (
            WeightPublisher(receivers=world, communicator=gloo, deadline=10.0, bucket_bytes=1 << 14, path="whole")
            if rank == 0
            else None
        )
        engine = ReceivingEngine(rank)
        route = Route(publisher, ((engine, 1),), deadline=10.0)
        said = []
        for refuse in ("", "no room", ""):
            engine.refuse = refuse if rank == 1 else ""
            try:
                outcome = route.send(stream)
                said.append("committed" if outcome is not None else "followed")
            except SyncError as error:
                said.append(str(error))
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(2)
        route.close()
        engine.close()
        return {
            "said": said,
            "epoch": route.epoch,
            "calls": engine.calls,
            "live": {name: tensor.clone() for name, tensor in engine.live.items()},
        }
