"""``sim:xpu`` and ``sim:xpu-sleep``: this backend's own parts over the simulator's runtime."""

from __future__ import annotations

from hardpoint import Backend
from hardpoint_xpu.backend import over
from hardpoint_xpu.runtime import XpuRuntime


def profile(backend: Backend, runtime: XpuRuntime) -> Backend:
    """The parts of ``xpu``, under the simulator's name."""
    return over(runtime, backend.info)


def sleeping(backend: Backend, runtime: XpuRuntime) -> Backend:
    """The parts of ``xpu:sleep``."""
    return over(runtime, backend.info, sleep=True)
