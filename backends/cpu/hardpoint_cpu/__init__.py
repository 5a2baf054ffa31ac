"""The `cpu` backend: hooks only. The parts are in `backend.py`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from hardpoint import Backend, BackendInfo, Probe, hookimpl

_INFO = BackendInfo(
    name="cpu",
    device_type="cpu",
    priority=0,
    summary="the host: torch CPU tensors, gloo collectives; the slow definition of what every backend does",
)


@hookimpl
def hardpoint_info() -> BackendInfo:
    """Static facts."""
    return _INFO


@hookimpl
def hardpoint_probe() -> Probe:
    """Always available."""
    return Probe(True, f"the host, {os.cpu_count()} cores", 1)


@hookimpl
def hardpoint_backend(options: Mapping[str, Any]) -> Backend:
    """Compose the backend."""
    from hardpoint_cpu.backend import build

    return build(_INFO, options)
