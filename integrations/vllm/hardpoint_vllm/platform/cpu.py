"""vLLM's CPU platform, as one that hardpoint may extend."""

from __future__ import annotations

from vllm.platforms.cpu import CpuPlatform


class HardpointCpuPlatform(CpuPlatform):  # type: ignore[misc]
    """Everything as in `CpuPlatform`, `_enum` included: worker, attention and memory of stock vLLM are right here.

    What was wrong on CPU (expert weights after a reload) is a layer's business, not the platform's: see
    `hardpoint_vllm.moe`.
    """

    hardpoint_backend: str = "cpu"
