"""Modes ``undo`` and ``off`` of a vLLM model: an update lands in the memory of the weights that serve.

The worker stands still from the beginning of the update to its end. A kernel's layout may be another than the one that
arrives, so what lands is not what serves: the memory of each parameter is used as room for what arrives for it, and
vLLM's layerwise reload then makes the layer anew from there, one layer at a time. A parameter whose memory has another
size (packed weights), or that shares it, gets room beside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from hardpoint.errors import SyncError
from hardpoint.sync.dtypes import torch_dtype
from hardpoint.sync.plan import Bucket, Destination, Storages
from hardpoint.sync.transaction import Mode
from hardpoint_vllm.weight_transfer.snapshot import Snapshot

if TYPE_CHECKING:
    from hardpoint.sync.plan import SyncPlan
    from hardpoint_vllm.weight_transfer.planned.served import Served


def rooms(plan: SyncPlan, rank: int, model: Served, device: torch.device, free: int) -> tuple[Storages, int]:
    """Where an update can land without a second copy of the weights, and the bytes that are taken beside them.

    Args:
        free: bytes of the device that may be taken.

    Raises:
        SyncError: what has to go beside does not fit.
    """
    live = dict(model.named_parameters())
    taken: list[tuple[int, int]] = []
    found: dict[str, torch.Tensor] = {}
    beside: list[Destination] = []
    for of in plan.destinations_for(rank):
        room = _room_in(live.get(of.parameter), of, device, taken)
        if room is None:
            beside.append(of)
        else:
            found[of.parameter] = room
    lacking = sum(_nbytes(of) for of in beside)
    if lacking > free:
        raise SyncError(
            f"The kernels keep {len(beside)} parameters in a form that what arrives for them does not fit into "
            f"({beside[0].parameter} is one), and there is no room for {lacking} bytes beside them ({free} free); free "
            "memory on the device"
        )
    for of in beside:
        found[of.parameter] = torch.empty(of.shape, dtype=torch_dtype(of.dtype), device=device)
    return Storages(plan, rank, found), lacking


class InPlaceStaging:
    """See `hardpoint.sync.transaction.Staging`. Make it while the worker stands still.

    Args:
        mode: ``undo``: all values are kept in host memory; ``off``: none are, so that an abort after the first bucket
            ends in FAILED.
        run: has the worker's thread do something.
    """

    serves = False
    in_place = True

    def __init__(
        self,
        mode: Mode,
        target: Storages,
        model: Served,
        run: Callable[[Callable[[], Any]], Any],
    ) -> None:
        self.target = target
        self._model, self._run = model, run
        self._undo = mode is Mode.UNDO
        self._old: Snapshot | None = Snapshot(model, values=self._undo)
        self._stop: Callable[[], None] | None = None
        self._touched = False

    def land(self, bucket: Bucket, payload: torch.Tensor) -> None:
        """See `Staging.land`."""
        self._touched = True
        self.target.land(bucket, payload)

    def stream_into(self, keep: object, stop: Callable[[], None]) -> None:
        """See `Staging.stream_into`. All is kept already, if anything is."""
        self._stop, self._touched = stop, True

    def prepare(self) -> None:
        """Make every layer anew from what has landed, on the worker's thread."""
        self.target.clear_padding()
        self._run(lambda: self._model.load(self.target.named))

    def commit(self) -> None:
        """It is in already."""
        self._old = self._stop = None

    def abort(self) -> bool:
        """See `Staging.abort`. In mode off the tensors are put back where they were, for the next update to fill."""
        if self._stop is not None:
            self._stop()
        old, self._old, self._stop = self._old, None, None
        if old is not None and self._touched:
            self._run(old.restore)
        return self._undo or not self._touched


def _room_in(
    tensor: torch.Tensor | None, of: Destination, device: torch.device, taken: list[tuple[int, int]]
) -> torch.Tensor | None:
    """The memory of `tensor` as room for `of`; None if it has another size or place, or belongs to another as well."""
    if tensor is None or tensor.device.type != device.type or not tensor.is_contiguous():
        return None
    if tensor.nbytes != _nbytes(of) or not tensor.nbytes:
        return None
    start, stop = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    if any(start < end and begin < stop for begin, end in taken):
        return None
    taken.append((start, stop))
    return tensor.detach().reshape(-1).view(torch.uint8).view(torch_dtype(of.dtype)).view(of.shape)


def _nbytes(of: Destination) -> int:
    count = torch.Size(of.shape).numel()
    return count * torch_dtype(of.dtype).itemsize
