"""vLLM's CUDA communicator, watched, with the barrier before MoE collectives where the backend's rule asks for it.

Not run on a device yet.
"""

from __future__ import annotations

from typing import Any

from vllm.distributed.device_communicators.cuda_communicator import CudaCommunicator

from hardpoint_vllm.parallel.all2all import with_barrier
from hardpoint_vllm.parallel.watched import WatchedRagged


class HardpointCudaCommunicator(WatchedRagged, CudaCommunicator):  # type: ignore[misc]
    """Everything as in `CudaCommunicator`: its ragged collectives are NCCL's own groups of broadcasts, and right."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with_barrier(getattr(self, "all2all_manager", None))
