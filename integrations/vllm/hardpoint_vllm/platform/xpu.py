"""vLLM's XPU platform, as one that hardpoint may extend. Not run on a device yet."""

from __future__ import annotations

from typing import Any

from vllm.platforms.xpu import XPUPlatform

from hardpoint_vllm.platform.settings import prepare


class HardpointXpuPlatform(XPUPlatform):  # type: ignore[misc]
    """`XPUPlatform`, `_enum` included; collectives on record, and the backend's rule in the scheduler."""

    hardpoint_backend: str = "xpu"

    @classmethod
    def check_and_update_config(cls, vllm_config: Any) -> None:
        """vLLM's own, then what the backend's rule adds."""
        super().check_and_update_config(vllm_config)
        prepare(vllm_config, host_memory=False)

    @classmethod
    def get_device_communicator_cls(cls) -> str:
        """The communicator of every vLLM group of more than one rank."""
        return "hardpoint_vllm.parallel.xpu_communicator.HardpointXpuCommunicator"
