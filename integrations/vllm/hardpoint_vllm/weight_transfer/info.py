"""What a trainer tells an engine, as vLLM carries it: plain JSON values in `init_info` and `update_info`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from vllm.distributed.weight_transfer.base import WeightTransferInitInfo, WeightTransferUpdateInfo

from hardpoint_vllm.weight_transfer.adapter import AdapterInfo

TRANSPORTS = ("native", "host")
NONFINITE = ("refuse", "allow")
PATHS = ("plan", "whole")


@dataclass
class HardpointInitInfo(WeightTransferInitInfo):  # type: ignore[misc]
    """Where to meet the trainer.

    Attributes:
        host, port: of the store that the trainer serves.
        world_size: trainer and all workers of all engines together.
        rank_offset: rank of this engine's first worker; the sender is rank 0.
        name: of the communicator on that store.
        deadline: seconds for joining, each vote and each bucket.
        start_deadline: seconds that `update_weights` waits for the trainer to begin; None for `deadline`.
        nonfinite: ``refuse`` (default) an update that holds NaN or infinity, or ``allow`` it.
        path: ``plan``: each worker gets the slices that it holds; ``whole``: each gets every tensor of the checkpoint
            and vLLM's loaders place them. What the trainer's publisher says in its `init_info`; a worker that cannot
            take the path that is named refuses to join, and takes no other.
        drafter: on path ``plan``, each update brings the drafter's weights too.
        transport: ``native``: the backend's communicator; ``host``: through host memory, for an engine on the trainer's
            own device.
        adapter: name, number and PEFT configuration of an adapter, if that alone is sent (`AdapterInfo`). Its path is
            ``whole``: every worker gets all of it, and vLLM cuts it.
    """

    host: str
    port: int
    world_size: int
    rank_offset: int = 1
    name: str = "weights"
    deadline: float = 60.0
    start_deadline: float | None = None
    nonfinite: str = "refuse"
    path: str = "plan"
    drafter: bool = False
    transport: str = "native"
    adapter: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """ValueError for what cannot be meant."""
        if not isinstance(self.port, int) or not 0 < self.port < 65536:
            raise ValueError(f"init_info port must be a number from 1 to 65535, found {self.port!r}.")
        if not isinstance(self.world_size, int) or self.world_size < 2:
            raise ValueError(
                f"init_info world_size counts the trainer and every worker, at least 2; found {self.world_size!r}."
            )
        if not isinstance(self.rank_offset, int) or not 1 <= self.rank_offset < self.world_size:
            raise ValueError(
                f"init_info rank_offset must be from 1 to {self.world_size - 1} (the sender is rank 0), "
                f"found {self.rank_offset!r}."
            )
        check_seconds("init_info deadline", self.deadline)
        if self.start_deadline is not None:
            check_seconds("init_info start_deadline", self.start_deadline)
        if self.path not in PATHS:
            raise ValueError(f"init_info path must be one of {', '.join(PATHS)}, found {self.path!r}.")
        if self.drafter and self.path != "plan":
            raise ValueError("init_info drafter goes with path 'plan'; on path 'whole' a drafter has its own updates.")
        if self.transport not in TRANSPORTS:
            raise ValueError(f"init_info transport must be one of {', '.join(TRANSPORTS)}, found {self.transport!r}.")
        if self.nonfinite not in NONFINITE:
            raise ValueError(f"init_info nonfinite must be one of {', '.join(NONFINITE)}, found {self.nonfinite!r}.")
        if self.adapter is not None:
            AdapterInfo.of(self.adapter)
            if self.path != "whole":
                raise ValueError(f"An adapter alone is sent on path 'whole', found init_info path {self.path!r}.")


@dataclass
class HardpointUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    """One update. Names, shapes and dtypes travel in the manifest, ahead of the tensors.

    Attributes:
        deadline: seconds for each vote and each bucket; None for that of `HardpointInitInfo`.
        start_deadline: likewise for the trainer to begin.
        epoch: what the caller expects the update to be; another one is refused. None takes any that grows.
    """

    deadline: float | None = None
    start_deadline: float | None = None
    epoch: int | None = None

    def __post_init__(self) -> None:
        """ValueError for what cannot be meant."""
        for name in ("deadline", "start_deadline"):
            value = getattr(self, name)
            if value is not None:
                check_seconds(f"update_info {name}", value)


def check_seconds(what: str, value: object) -> None:
    """ValueError unless `value` is a finite positive number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"{what} must be a finite, positive number of seconds, found {value!r}.")
