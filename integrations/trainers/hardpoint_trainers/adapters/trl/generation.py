"""TRL's `VLLMGeneration` with its weight sync replaced: a transaction where it loads tensor by tensor, or over NCCL."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from trl.generation import vllm_generation
from trl.generation.vllm_client import VLLMClient

from hardpoint.communicator import CommunicatorFactory
from hardpoint.errors import SyncError
from hardpoint_trainers.adapters.colocation import colocated
from hardpoint_trainers.adapters.engines import HttpEngine, LocalEngine, ServingEngine
from hardpoint_trainers.adapters.replaced import replaced
from hardpoint_trainers.adapters.route import Route
from hardpoint_trainers.adapters.trl.options import Options
from hardpoint_trainers.publisher import WeightPublisher
from hardpoint_trainers.sharded import CheckpointStream

NAME = "hardpoint"


class PublishedGeneration(vllm_generation.VLLMGeneration):  # type: ignore[misc]
    """Attributes:
    options: set by the subclass that `generation_class` makes.
    route: how weights get to the engines.
    """

    options: Options
    route: Route

    def _init_vllm(self) -> None:
        if self.mode == "colocate":
            self._init_colocated()
        elif self.mode == "server":
            self._init_server()
        else:
            raise ValueError(f"vllm_mode must be 'server' or 'colocate', found {self.mode!r}.")
        if self.options.on_route is not None:
            self.options.on_route(self.route, self)

    def sync_weights(self) -> None:
        """Publish the model's weights; TRL calls it on every rank before it generates with a new step.

        Raises:
            UpdateAborted, SyncError: the engines refused them and serve the old ones.
        """
        if self.mode == "colocate" and self.enable_sleep_mode:  # as TRL does: memory has to be mapped first
            vllm_generation.empty_cache()
            self.llm.wake_up(tags=["weights"])
            self._llm_weights_sleeping = False
        if self.mode == "server" and not self.accelerator.is_main_process:
            for _ in self.weights:
                pass
            return
        self.route.send(self.weights)

    @property
    def weights(self) -> CheckpointStream:
        """The model as its checkpoint; planned once."""
        if not hasattr(self, "_weights"):
            model = self.accelerator.unwrap_model(self.model)
            self._weights = CheckpointStream(model, self.options.dtype, bucket_bytes=self.options.bucket_bytes)
        return self._weights

    def _init_colocated(self) -> None:
        from vllm.config import WeightTransferConfig

        # TRL makes the engine itself and has no setting for its weight transfer.
        engine = partial(
            vllm_generation.LLM, weight_transfer_config=WeightTransferConfig(backend=NAME), **self.options.engine
        )
        with replaced(vllm_generation, "LLM", engine):
            super()._init_vllm()
        workers = self.accelerator.num_processes  # one in each process, whatever tensor parallelism groups them
        sends = self.accelerator.process_index == 0
        communicator, terms = colocated(self.accelerator.device, self.options.communicator)
        publisher = self._publisher(workers, communicator) if sends else None
        self.route = self._route(publisher, LocalEngine(self.llm), alone=False, terms=terms)

    def _init_server(self) -> None:
        # Not TRL's: that opens an NCCL group with the server, which needs a GPU and engine "nccl".
        if self.accelerator.is_main_process:
            url = self.server_base_url or f"http://{self.server_host}:{self.server_port}"
            self.vllm_client = VLLMClient(
                base_url=url, group_port=self.group_port, connection_timeout=self.server_timeout
            )
            config = self.vllm_client.get_server_info()["weight_transfer_config"]
            if NAME not in str(config):
                raise SyncError(
                    f"The vLLM server at {url} has weight transfer {config!r}, expected engine {NAME!r}. Start it with "
                    f'--weight-transfer-config \'{{"backend": "{NAME}"}}\' and HARDPOINT_BACKEND set.'
                )
            publisher = self._publisher(self.vllm_client.get_world_size(), self.options.communicator)
            self.route = self._route(publisher, HttpEngine(url, deadline=self.options.deadline * 2), alone=True)
        else:
            self.route = Route(None, (), alone=True)
        self.accelerator.wait_for_everyone()

    def _publisher(self, receivers: int, communicator: CommunicatorFactory | None) -> WeightPublisher:
        options = self.options
        return WeightPublisher(
            options.host,
            options.port,
            receivers=receivers,
            deadline=options.deadline,
            device=self.accelerator.device,
            bucket_bytes=options.bucket_bytes,
            communicator=communicator,
            path=options.path,
        )

    def _route(
        self,
        publisher: WeightPublisher | None,
        engine: ServingEngine,
        *,
        alone: bool,
        terms: Mapping[str, Any] = MappingProxyType({}),
    ) -> Route:
        return Route(publisher, ((engine, 1),), deadline=self.options.deadline, alone=alone, terms=terms)


def generation_class(options: Options) -> type[PublishedGeneration]:
    """`PublishedGeneration` with `options`, to be made by TRL with TRL's own arguments."""
    members: dict[str, Any] = {"options": options, "__module__": __name__}
    return type("PublishedGeneration", (PublishedGeneration,), members)
