"""vLLM's CUDA platform (with NVML or without), as one that hardpoint may extend. Not run on a device yet."""

from __future__ import annotations

from typing import Any

from vllm.platforms.cuda import CudaPlatform

from hardpoint_vllm import sleep
from hardpoint_vllm.platform.settings import prepare


class HardpointCudaPlatform(CudaPlatform):  # type: ignore[misc]
    """`CudaPlatform`, `_enum` included; collectives on record, and the backend's rule in the scheduler."""

    hardpoint_backend: str = "cuda"

    @classmethod
    def check_and_update_config(cls, vllm_config: Any) -> None:
        """vLLM's own, then what the backend's rule adds."""
        super().check_and_update_config(vllm_config)
        sleep.choose(vllm_config)
        prepare(vllm_config, host_memory=False)

    @classmethod
    def get_device_communicator_cls(cls) -> str:
        """The communicator of every vLLM group of more than one rank."""
        return "hardpoint_vllm.parallel.cuda_communicator.HardpointCudaCommunicator"
