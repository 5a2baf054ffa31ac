"""vLLM's gather-and-scatter all2all manager, with the barrier that a backend's rule may ask for."""

from __future__ import annotations

from typing import Any

import torch
from vllm.distributed.device_communicators.all2all import AgRsAll2AllManager

from hardpoint_vllm.parallel.capturing import capturing
from hardpoint_vllm.parallel.rule import rule


class HardpointAll2AllManager(AgRsAll2AllManager):  # type: ignore[misc]
    """The ranks meet on the host before each collective, where the rule says so and no graph is being captured."""

    def dispatch_router_logits(self, *args: Any, **kwargs: Any) -> Any:
        """See `AgRsAll2AllManager`."""
        self._meet(args, kwargs, 2)
        return super().dispatch_router_logits(*args, **kwargs)

    def dispatch(self, *args: Any, **kwargs: Any) -> Any:
        """See `AgRsAll2AllManager`."""
        self._meet(args, kwargs, 3)
        return super().dispatch(*args, **kwargs)

    def combine(self, *args: Any, **kwargs: Any) -> Any:
        """See `AgRsAll2AllManager`."""
        self._meet(args, kwargs, 1)
        return super().combine(*args, **kwargs)

    def _meet(self, args: Any, kwargs: Any, position: int) -> None:
        if not rule().barrier(expert_parallel=True, capturing=capturing()):
            return
        sequence_parallel = kwargs.get("is_sequence_parallel", args[position] if len(args) > position else False)
        torch.distributed.barrier(self._get_comm_group(sequence_parallel).cpu_group)


def with_barrier(manager: Any) -> Any:
    """`manager`, made ours in place if it is vLLM's gather and scatter: another (DeepEP ...) meets by itself."""
    if type(manager) is AgRsAll2AllManager:
        manager.__class__ = HardpointAll2AllManager  # keeps whatever this release's constructor was given
    return manager
