"""What both trainers do differently: the engine has hardpoint's weight transfer, and a full sync is one transaction."""

from __future__ import annotations

from typing import Any

from hardpoint.errors import HardpointError
from hardpoint_trainers.adapters.colocation import colocated
from hardpoint_trainers.adapters.engines import RpcEngine
from hardpoint_trainers.adapters.route import DEADLINE, Route
from hardpoint_trainers.publisher import WeightPublisher
from hardpoint_trainers.sharded import CheckpointStream

NAME = "hardpoint"


class Publishing:
    """In front of ms-swift's `RolloutTrainerMixin`, whose methods of these names it replaces.

    Attributes:
        hardpoint_deadline: seconds for joining, each vote and each bucket.
        hardpoint_route: how weights get to the engine; probes go into its ``after``.
    """

    hardpoint_deadline: float = 2 * DEADLINE
    hardpoint_route: Route
    args: Any
    accelerator: Any
    engine: Any
    model: Any
    vllm_mode: str
    rollout_enable_lora: bool
    base_sync_done: bool

    def _prepare_vllm_engine(self) -> Any:
        # ms-swift hands these to vLLM's EngineArgs.
        kwargs = dict(self.args.vllm_engine_kwargs or {})
        kwargs.setdefault("weight_transfer_config", {"backend": NAME})
        if dict(kwargs["weight_transfer_config"]).get("backend") != NAME:
            raise HardpointError(
                f"vllm_engine_kwargs asks for weight transfer {kwargs['weight_transfer_config']}, expected backend "
                f"{NAME}."
            )
        self.args.vllm_engine_kwargs = kwargs
        engine = super()._prepare_vllm_engine()  # type: ignore[misc]
        sends = self.accelerator.process_index == 0
        publisher = None
        communicator, terms = colocated(self.accelerator.device, None)
        if sends:
            publisher = WeightPublisher(
                receivers=self.accelerator.num_processes,
                deadline=self.hardpoint_deadline,
                device=self.accelerator.device,
                communicator=communicator,
            )
        self.hardpoint_route = Route(
            publisher, ((RpcEngine(engine.engine), 1),), deadline=self.hardpoint_deadline, terms=terms
        )
        return engine

    def _move_full_model_to_vllm(self) -> None:
        """Publish the model's weights, adapters merged aside; ms-swift calls it on every rank.

        Raises:
            HardpointError: server mode, or vLLM's own LoRA, which this does not serve.
            UpdateAborted, SyncError: the engine refused them and serves the old ones.
        """
        if self.vllm_mode != "colocate":
            raise HardpointError(
                "ms-swift's rollout server takes weights by endpoints of its own, not by hardpoint. Use "
                "--vllm_mode colocate, or leave the plugin out."
            )
        if self.rollout_enable_lora:
            raise HardpointError(
                "With vllm_enable_lora the base weights and the adapter reach vLLM apart, which the plugin does not "
                "do. Set --vllm_enable_lora false: the adapter is merged on its way."
            )
        model = self.accelerator.unwrap_model(self.model)
        if not hasattr(self, "_hardpoint_weights"):
            self._hardpoint_weights = CheckpointStream(model)
        self.hardpoint_route.send(self._hardpoint_weights)
        self.base_sync_done = True
