"""hardpoint: where an accelerator attaches to LLM inference and RL.

Importing this package imports no torch: the names below are resolved on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hardpoint.api_version import API_VERSION
from hardpoint.backend import Backend, BackendInfo, Capabilities, Probe
from hardpoint.errors import BackendUnavailable, DeadlineExceeded, HardpointError
from hardpoint.hookspecs import hookimpl

if TYPE_CHECKING:
    from hardpoint.communicator import Broadcast, Communicator, Rendezvous
    from hardpoint.device import Device, Event, HostDevice, Stream, TorchDevice
    from hardpoint.moe import MoELayout
    from hardpoint.selection import backend_environment, get_backend

__version__ = "0.1.0"

_LAZY = {
    "Broadcast": "hardpoint.communicator",
    "Communicator": "hardpoint.communicator",
    "Device": "hardpoint.device",
    "Event": "hardpoint.device",
    "HostDevice": "hardpoint.device",
    "MoELayout": "hardpoint.moe",
    "Rendezvous": "hardpoint.communicator",
    "Stream": "hardpoint.device",
    "TorchDevice": "hardpoint.device",
    "backend_environment": "hardpoint.selection",
    "get_backend": "hardpoint.selection",
}

__all__ = [
    "API_VERSION",
    "Backend",
    "BackendInfo",
    "BackendUnavailable",
    "Broadcast",
    "Capabilities",
    "Communicator",
    "DeadlineExceeded",
    "Device",
    "Event",
    "HardpointError",
    "HostDevice",
    "MoELayout",
    "Probe",
    "Rendezvous",
    "Stream",
    "TorchDevice",
    "backend_environment",
    "get_backend",
    "hookimpl",
]


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'hardpoint' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(module), name)
