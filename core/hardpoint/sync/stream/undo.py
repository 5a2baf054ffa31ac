"""`Undo`: what an update overwrites, kept in host memory before it is; copied while the wire is busy with the rest."""

from __future__ import annotations

import torch

from hardpoint.device import Device, Event
from hardpoint.errors import SyncError
from hardpoint.moe.views import words
from hardpoint.sync.plan import Storages
from hardpoint.sync.stream.lanes import Lanes
from hardpoint.sync.stream.memory import host_memory


class Undo:
    """Keeps whole parameters of `live`, in the order the stream overwrites them.

    Every element of a parameter is overwritten (that is what a plan proves), so that a parameter is one copy to the
    host and one back. The host memory is taken once and used for every update.
    """

    def __init__(self, live: Storages, device: Device, *, index: int = 0) -> None:
        self._live, self._device, self._index = live, device, index
        self._lanes = Lanes(device, index, "keep")
        where = device.torch_device(index)
        with device.use(index):
            self._host = host_memory(sum(_padded(tensor.nbytes) for tensor in live.tensors), where)
        self._pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        start = 0
        for tensor in live.tensors:
            flat = words(tensor.detach()).reshape(-1)
            self._pairs.append((flat, self._host[start : start + tensor.nbytes].view(flat.dtype)))
            start += _padded(tensor.nbytes)
        self._order = _order(live)
        self._marks = [self._lanes.event() for _ in live.tensors]
        self._events: dict[int, Event] = {}

    @property
    def nbytes(self) -> int:
        """Host memory that is held."""
        return self._host.nbytes

    def begin(self) -> None:
        """See `Keeper.begin`."""
        self._lanes.follow_caller()
        self._events = {}
        with self._lanes.on("keep") as stream:
            for number in self._order:
                here, host = self._pairs[number]
                host.copy_(here, non_blocking=True)
                self._marks[number].record(stream)
                self._events[number] = self._marks[number]

    def kept(self, parameter: int) -> Event:
        """See `Keeper.kept`."""
        if parameter not in self._events:
            raise SyncError(f"Parameter {parameter} was not kept before it is overwritten; call begin first.")
        return self._events[parameter]

    def restore(self) -> None:
        """Put all of it back, in the caller's stream: the weights are then bit by bit what they were at `begin`.

        Call it when nothing of the update is under way any more.
        """
        with self._device.use(self._index):
            self._lanes.lead_caller()
            for number in self._events:
                here, host = self._pairs[number]
                here.copy_(host, non_blocking=True)
            self._device.synchronize(self._index)
        self._events = {}

    def forget(self) -> None:
        """The update stays: what was kept is of no use any more. The memory is kept for the next one."""
        self._events = {}


def _order(live: Storages) -> list[int]:
    """Parameters as the stream comes to them; those that nothing is sent for come last."""
    shard = live.plan.shard_of[live.rank]
    seen: dict[int, None] = {}
    for bucket in live.plan.buckets_for(live.rank):
        for _, move in bucket.pieces:
            for landing in move.landings:
                if landing.shard == shard:
                    seen.setdefault(landing.parameter)
    for number in range(len(live.tensors)):
        seen.setdefault(number)
    return list(seen)


def _padded(nbytes: int) -> int:
    return -(-nbytes // 64) * 64
