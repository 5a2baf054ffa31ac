"""The engine. On path ``whole``: receive into staging, verify, agree; commit only in `finish_weight_update`.

    start_weight_update    forget what an earlier session staged
    update_weights         receive one update from the trainer; on any error the live model has not been touched
    finish_weight_update   vote, load through layerwise reload, vote; the core resets its caches in the same call

On path ``plan``: the update streams in beside the serving; in `update_weights` the worker stands still while it is
put in, voted on and committed (`planned/`), and `finish_weight_update` checks that it was.

One update per session: it is complete by definition, so there is nothing to add to it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from vllm.distributed.weight_transfer.base import WeightTransferEngine

from hardpoint.errors import BackendUnavailable, SyncError
from hardpoint.sync import Manifest, Received, Receiver, join_store
from hardpoint_vllm.mode import VARIABLE, Mode, mode
from hardpoint_vllm.weight_transfer.accept import check
from hardpoint_vllm.weight_transfer.adapter import AdapterInfo, AdapterSlot, keep
from hardpoint_vllm.weight_transfer.agreement import Ballot, agree
from hardpoint_vllm.weight_transfer.commit import commit
from hardpoint_vllm.weight_transfer.finite import refuse_nonfinite
from hardpoint_vllm.weight_transfer.first_load import FirstLoad, record_of
from hardpoint_vllm.weight_transfer.info import HardpointInitInfo, HardpointUpdateInfo
from hardpoint_vllm.weight_transfer.planned.served import DRAFT, Served, ServedModel
from hardpoint_vllm.weight_transfer.planned.session import Place, PlannedUpdates

if TYPE_CHECKING:
    from hardpoint.communicator import Communicator

_logger = logging.getLogger("vllm.hardpoint.weight_transfer")


def _local_workers(parallel: Any) -> int:
    """Workers that share this host's memory, as far as vLLM's settings tell."""
    nodes = max(1, int(getattr(parallel, "nnodes", 1) or 1))
    return max(1, int(parallel.world_size) * int(parallel.data_parallel_size_local) // nodes)


@dataclass(frozen=True)
class _Staged:
    manifest: Manifest
    received: Received


class HardpointWeightTransferEngine(WeightTransferEngine[HardpointInitInfo, HardpointUpdateInfo]):  # type: ignore[misc]
    """Weight transfer as a transaction, over the chosen backend's communicator.

    Attributes:
        epoch: of the weights that serve, -1 before the first update.
    """

    init_info_cls = HardpointInitInfo
    update_info_cls = HardpointUpdateInfo

    def __init__(self, config: Any, vllm_config: Any, device: torch.device, model: torch.nn.Module) -> None:
        if mode() is not Mode.ON:
            raise BackendUnavailable(
                f"Weight transfer by hardpoint needs {VARIABLE} set to a backend or to auto, in every process of this "
                "engine: without it experts are not packed again when new weights arrive."
            )
        super().__init__(config, vllm_config, device, model)
        self.epoch = -1
        self._epochs: dict[int, int] = {}  # id(model) -> epoch: the drafter has updates of its own
        self._info: HardpointInitInfo | None = None
        self._communicator: Communicator | None = None
        self._staged: _Staged | None = None
        self._planned: PlannedUpdates | None = None
        self._ended: PlannedUpdates | None = None  # of the trainer before: its epoch and phase are this worker's
        self._slot: AdapterSlot | None = None  # of a trainer that sends an adapter alone
        self._adapters: dict[int, Any] = {}  # by slot number, as updates brought them
        self._taken = False  # this session's update has been committed, on path plan
        self.drafter: torch.nn.Module | None = None  # whoever calls `init_transfer_engine` for the worker says it
        self.fresh = False  # weights have changed, and the core has not been told
        self.received_bytes = 0  # payload of the last committed update

    def init_transfer_engine(self, init_info: HardpointInitInfo) -> None:
        """Join the trainer's communicator; leaves an earlier one first, so a restarted trainer is let in.

        Raises:
            SyncError: nobody serves the store within the deadline.
        """
        import hardpoint
        from hardpoint.communicator import Rendezvous
        from hardpoint.communicator.through_host import through_host

        earlier = self._planned or self._ended
        if earlier is not None and earlier.under_way is not None:
            raise SyncError(
                f"The update of epoch {earlier.under_way} by another trainer is under way on rank {earlier.rank}; let "
                "it end, or end that trainer, before this one joins."
            )
        served = self._served(init_info) if init_info.path == "plan" else None  # refused, the earlier trainer stays
        self.shutdown()
        slot = None
        if init_info.adapter is not None:
            model = self._default_model
            slot = AdapterSlot(AdapterInfo.of(init_info.adapter), model, self._first(model), self._adapters)
        meeting = join_store(init_info.host, init_info.port, deadline=init_info.deadline)
        parallel = self.parallel_config
        worker = parallel.data_parallel_index * parallel.world_size + parallel.rank
        if served is not None:
            self._planned = PlannedUpdates(
                init_info,
                meeting.store,
                Place(init_info.rank_offset + worker, self._where(), _local_workers(parallel)),
                hardpoint.get_backend(),
                self.device,
                served,
                earlier,
            )
            self._info = init_info
            return
        rendezvous = Rendezvous(
            store=meeting.store,
            rank=init_info.rank_offset + worker,
            world_size=init_info.world_size,
            name=init_info.name,
            deadline=init_info.deadline,
            device_index=self.device.index or 0,
        )
        backend = hardpoint.get_backend()
        make = through_host(backend.device) if init_info.transport == "host" else backend.communicator
        self._communicator = make(rendezvous)
        self._info, self._slot = init_info, slot

    def start_weight_update(self) -> None:
        """Open a session. The live model is not touched.

        Raises:
            SyncError: the session is for a drafter, and the trainer sends by a plan, or an adapter.
        """
        self._staged, self._taken = None, False
        if self._slot is not None and self.model is not self._default_model:
            raise SyncError("This trainer sends an adapter of the model alone; a drafter has none.")
        if self._planned is not None and self.model is not self._default_model:
            raise SyncError(
                "A drafter has no updates of its own on path 'plan': give the publisher drafter=True, and each update "
                "brings target and drafter in one transaction; or path='whole'."
            )

    def receive_weights(self, update_info: HardpointUpdateInfo) -> None:
        """Receive one update into staging; every worker of the engine has it, verified, when this returns.

        Raises:
            SyncError: refused, incomplete, damaged, or the trainer was lost; the old weights stay, untouched.
        """
        if self._planned is not None:
            self._take(update_info)
            return
        if self._info is None or self._communicator is None:
            raise SyncError("No trainer is known: call init_weight_transfer_engine with its host and port first.")
        if self._staged is not None:
            raise SyncError(
                f"This session has received epoch {self._staged.manifest.epoch} already; one session takes one update. "
                "Call finish_weight_update, then start the next."
            )
        deadline = update_info.deadline or self._info.deadline
        start = update_info.start_deadline or self._info.start_deadline
        staged, reason = self._receive(update_info, deadline, start)
        subject = f"{staged.received.outcome.epoch} {staged.received.outcome.manifest_digest}" if staged else ""
        agree(Ballot.on(subject, reason), deadline)
        self._staged = staged

    def finish_weight_update(self) -> None:
        """Commit what was received: everywhere or nowhere.

        Raises:
            SyncError: nothing was received, or a worker could not load it; the old weights serve.
            CommitFailed: neither the new nor the old weights are whole; the engine core stops serving.
        """
        if self._taken:
            self._taken = False
            return
        if self._staged is None:
            raise SyncError("Nothing to commit: no update was received in this session. The old weights serve.")
        assert self._info is not None
        staged, self._staged = self._staged, None
        epoch = staged.manifest.epoch
        tensors, deadline = staged.received.tensors, self._info.deadline
        if self._slot is not None:
            seconds = self._slot.commit(tensors, epoch, deadline)
        else:
            seconds = commit(self.model, self.model_config, tensors, epoch, deadline)
        self._epochs[id(self.model)] = epoch
        if self.model is self._default_model:
            self.epoch = epoch
        self.fresh = True
        self.received_bytes = staged.received.outcome.bytes
        _logger.info("hardpoint: %s; loaded in %.3f s", staged.received.outcome, seconds)

    def after_session(self) -> None:
        """Called when the worker has finished a session: vLLM drops all adapters then, also those that it has just got.

        Raises:
            CommitFailed: one could not be put back.
        """
        keep(self._default_model, self._adapters)

    def shutdown(self) -> None:
        """Leave the communicator and drop what is staged; the engine goes on serving."""
        self._staged = self._slot = None
        planned, self._planned = self._planned, None
        communicator, self._communicator, self._info = self._communicator, None, None
        if communicator is not None:
            communicator.close()
        if planned is not None:
            self._ended = planned
            planned.close()

    def _take(self, update_info: HardpointUpdateInfo) -> None:
        assert self._info is not None
        assert self._planned is not None
        if self._taken:
            raise SyncError(
                f"This session has received epoch {self.epoch} already; one session takes one update. "
                "Call finish_weight_update, then start the next."
            )
        start = update_info.start_deadline or self._info.start_deadline or update_info.deadline or self._info.deadline
        self.epoch = self._epochs[id(self.model)] = self._planned.take(start, update_info.epoch)
        self._taken = self.fresh = True
        self.received_bytes = self._planned.received_bytes
        _logger.info("hardpoint: epoch %d committed, by plan", self.epoch)

    def _served(self, init_info: HardpointInitInfo) -> Served:
        """The models that a trainer's updates fill, as it says in `init_info`."""
        config = self._default_model_config
        target = ServedModel(self._default_model, config, self._first(self._default_model))
        if not init_info.drafter:
            return Served(target)
        draft_config = getattr(self.vllm_config.speculative_config, "draft_model_config", None)
        if self.drafter is None or draft_config is None:
            raise SyncError(
                "The trainer sends a drafter's weights too (drafter=True), and this engine has no drafter with any. "
                "Start it with a speculative_config, or have the publisher leave the drafter out."
            )
        own = "" if draft_config.model == config.model else DRAFT  # MTP is a part of the target's checkpoint
        return Served(target, ServedModel(self.drafter, draft_config, self._first(self.drafter), DRAFT, own))

    def _where(self) -> str:
        parallel = self.parallel_config
        expert = f", experts over {parallel.world_size}" if parallel.enable_expert_parallel else ""
        return (
            f"worker {parallel.rank} of {parallel.world_size} (tp {parallel.tensor_parallel_size}, "
            f"pp {parallel.pipeline_parallel_size}{expert}), dp {parallel.data_parallel_index}"
        )

    def _first(self, model: torch.nn.Module) -> FirstLoad:
        first = record_of(model)
        if first is None:
            load_format = self.vllm_config.load_config.load_format
            raise SyncError(
                f"This engine did not see which tensors its {type(model).__name__} is loaded from "
                f"(load_format={load_format!r}), so it cannot tell whether an update is whole. Start it from a "
                "checkpoint of the same model."
            )
        return first

    def _receive(
        self, update_info: HardpointUpdateInfo, deadline: float, start: float | None
    ) -> tuple[_Staged | None, str]:
        """What was staged, or why nothing was: an error here must reach the other workers before it is raised."""
        assert self._communicator is not None
        assert self._info is not None
        receiver = Receiver(
            self._communicator,
            device=self.device,
            accept=lambda manifest: self._accept(manifest, update_info.epoch),
            inspect=refuse_nonfinite if self._info.nonfinite == "refuse" else None,
            committed_epoch=self._epochs.get(id(self.model), -1),
        )
        try:
            received = receiver.receive(deadline, start_deadline=start)
        except Exception as error:  # noqa: BLE001 - becomes this worker's objection, raised by `agree` on every worker
            return None, f"{type(error).__name__}: {error}"
        if not received.outcome.committed or received.manifest is None:
            return None, f"Weight update aborted, the old weights stay: {received.outcome}"
        return _Staged(received.manifest, received), ""

    def _accept(self, manifest: Manifest, expected: int | None) -> None:
        if expected is not None and manifest.epoch != expected:
            raise SyncError(
                f"Update refused: it is epoch {manifest.epoch}, the caller of update_weights expects {expected}."
            )
        if self._slot is not None:
            self._slot.check(manifest)
            return
        first = self._first(self.model)
        experts = self.model_config.get_num_experts() if self.parallel_config.enable_expert_parallel else 0
        check(manifest, first, experts_elsewhere=experts)
