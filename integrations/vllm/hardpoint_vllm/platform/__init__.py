"""Platforms derived from vLLM's own, by the device type they serve.

Each keeps the in-tree `_enum`, so every ``is_cpu()`` and ``is_cuda()`` in vLLM still answers as before; it changes only
what its device needs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Derived:
    """`qualname` replaces vLLM's `base` (both ``package.module.Class``), which vLLM itself would have chosen."""

    base: str
    qualname: str


# In-tree platforms that are not listed (Zen CPUs with zentorch, for example) are left to vLLM.
PLATFORMS: dict[str, Derived] = {
    "cpu": Derived("vllm.platforms.cpu.CpuPlatform", "hardpoint_vllm.platform.cpu.HardpointCpuPlatform"),
    "cuda": Derived("vllm.platforms.cuda.CudaPlatform", "hardpoint_vllm.platform.cuda.HardpointCudaPlatform"),
    "xpu": Derived("vllm.platforms.xpu.XPUPlatform", "hardpoint_vllm.platform.xpu.HardpointXpuPlatform"),
}
