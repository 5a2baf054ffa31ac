"""``sim:npu`` and ``sim:npu-nz``: this backend's own parts over the simulator's runtime."""

from __future__ import annotations

from hardpoint import Backend
from hardpoint_npu.backend import over
from hardpoint_npu.runtime import NpuRuntime


def profile(backend: Backend, runtime: NpuRuntime) -> Backend:
    """The parts of ``npu:sleep``, which is ``npu`` and more, under the simulator's name."""
    return over(runtime, backend.info, sleep=True)


def private(backend: Backend, runtime: NpuRuntime) -> Backend:
    """The parts of ``npu:nz``."""
    return over(runtime, backend.info, nz=True)
