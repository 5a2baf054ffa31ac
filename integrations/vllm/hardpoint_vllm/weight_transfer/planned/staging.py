"""A vLLM model as `Weights`: an update is staged as the loaders had it, and put in through vLLM's layerwise reload.

In mode ``shadow`` it is staged beside the model, else in the model's own memory (`in_place`).

What post-load processing makes of weights (packed experts, absorbed projections, scales, handles of a library) is made
again of the new ones, into the storage that it has: addresses stay, so captured graphs stay valid. That can fail, so it
is done before this rank says yes, with the old values in host memory; after the yes there is nothing left that could.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from hardpoint.errors import SyncError
from hardpoint.sync.dtypes import ITEMSIZE, torch_dtype
from hardpoint.sync.plan import Bucket, Storages, SyncPlan
from hardpoint.sync.plan.strides import volume
from hardpoint.sync.transaction import Mode
from hardpoint_vllm.weight_transfer.planned.in_place import InPlaceStaging, rooms
from hardpoint_vllm.weight_transfer.snapshot import Snapshot

if TYPE_CHECKING:
    from hardpoint.sync.transaction.staging import Staging
    from hardpoint_vllm.weight_transfer.planned.gate import Gate
    from hardpoint_vllm.weight_transfer.planned.served import Served

Run = Callable[[Callable[[], Any]], Any]


class ModelWeights:
    """See `hardpoint.sync.transaction.Weights`.

    Args:
        gate: where the worker stands still, and what memory there is.
    """

    def __init__(
        self,
        plan: SyncPlan,
        rank: int,
        model: Served,
        device: torch.device,
        gate: Gate,
    ) -> None:
        self.plan, self.rank = plan, rank
        self._model, self._device, self._gate = model, device, gate

    @property
    def nbytes(self) -> int:
        """Of a second copy, and on an accelerator of the ring that it streams through: `auto` leaves room for both."""
        ring = 0 if self._device.type == "cpu" else 2 * self.plan.bucket_bytes
        return ring + sum(volume(of.shape) * ITEMSIZE[of.dtype] for of in self.plan.destinations_for(self.rank))

    def stage(self, mode: Mode) -> Staging:
        """See `Weights.stage`. Every mode but off keeps old values in host memory; SyncError if they do not fit."""
        self._room_for_old(mode)
        if mode is not Mode.SHADOW:
            self._gate.pause()  # from here on until the end of the update
            staging: InPlaceStaging = self._gate.run(lambda: self._in_place(mode))
            return staging
        made = {
            of.parameter: torch.empty(of.shape, dtype=torch_dtype(of.dtype), device=self._device)
            for of in self.plan.destinations_for(self.rank)
        }
        return ModelStaging(Storages(self.plan, self.rank, made), self._model, self._gate.run)

    def _in_place(self, mode: Mode) -> InPlaceStaging:
        target, _ = rooms(self.plan, self.rank, self._model, self._device, self._gate.room().device)
        return InPlaceStaging(mode, target, self._model, self._gate.run)

    def _room_for_old(self, mode: Mode) -> None:
        if mode is Mode.OFF:
            return
        needed, free = sum(of.nbytes for _, of in self._model.named_parameters()), self._gate.room().host
        if self._device.type == "cpu" and mode is Mode.SHADOW:
            needed += self.nbytes  # the second copy is in the same memory
        if needed > free:
            raise SyncError(
                f"Mode {mode.value} keeps the {needed} bytes that serve in host memory while an update is put in, and "
                f"{free} are free; free host memory, or ask for mode off by name"
            )


class ModelStaging:
    """See `hardpoint.sync.transaction.Staging`."""

    serves = True
    in_place = False

    def __init__(self, target: Storages, model: Served, run: Run) -> None:
        self.target = target
        self._model, self._run = model, run
        self._old: Snapshot | None = None

    def land(self, bucket: Bucket, payload: torch.Tensor) -> None:
        """See `Staging.land`."""
        self.target.land(bucket, payload)

    def stream_into(self, keep: object, stop: object) -> None:
        """Nothing that serves is overwritten."""

    def prepare(self) -> None:
        """Load the update, on the worker's thread, with the old values kept."""
        self.target.clear_padding()
        self._run(self._put_in)

    def commit(self) -> None:
        """It is in already."""
        self._old = None

    def abort(self) -> bool:
        """See `Staging.abort`."""
        old, self._old = self._old, None
        if old is not None:
            self._run(old.restore)
        return True

    def _put_in(self) -> None:
        self._old = Snapshot(self._model)
        self._model.load(self.target.named)
