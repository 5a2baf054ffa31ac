"""vLLM's CPU platform, as one that hardpoint may extend."""

from __future__ import annotations

from typing import Any

from vllm.platforms.cpu import CpuPlatform

from hardpoint_vllm import sleep
from hardpoint_vllm.platform.settings import prepare


class HardpointCpuPlatform(CpuPlatform):  # type: ignore[misc]
    """`CpuPlatform`, `_enum` included, with a worker that can be a pipeline stage and ragged collectives.

    What is wrong with expert weights on CPU is a layer's business, not the platform's: see `hardpoint_vllm.moe`.
    """

    hardpoint_backend: str = "cpu"

    @classmethod
    def check_and_update_config(cls, vllm_config: Any) -> None:
        """vLLM's own, then what the backend's rule adds; a worker class that the user chose stays."""
        chosen = vllm_config.parallel_config.worker_cls
        super().check_and_update_config(vllm_config)
        sleep.choose(vllm_config)
        if chosen == "auto":
            vllm_config.parallel_config.worker_cls = "hardpoint_vllm.parallel.cpu_worker.HardpointCpuWorker"
        prepare(vllm_config, host_memory=True)

    def is_sleep_mode_available(self) -> bool:
        """Host memory is given back and fetched again by `hardpoint_vllm.sleep`."""
        return True

    @classmethod
    def get_device_communicator_cls(cls) -> str:
        """The communicator of every vLLM group of more than one rank."""
        return "hardpoint_vllm.parallel.cpu_communicator.HardpointCpuCommunicator"
