"""`build`: one simulator, put together from its parts."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from hardpoint import Backend, Capabilities
from hardpoint.communicator import GLOO_DTYPES, GLOO_REDUCE_OPS
from hardpoint.errors import BackendUnavailable
from hardpoint_sim import active, factories, hardpoint_info, slot, torch_names
from hardpoint_sim.communicator import SimCommunicatorFactory
from hardpoint_sim.device import SimDevice
from hardpoint_sim.engine import Engine
from hardpoint_sim.graphs import SimGraphs
from hardpoint_sim.launcher import SimLauncher
from hardpoint_sim.memory_map import SimMemoryMap
from hardpoint_sim.profiles import find
from hardpoint_sim.settings import read_settings
from hardpoint_sim.torch_module import SimModule
from hardpoint_sim.vendor import SimRuntime, limits_of

_FLOATS = ("float64", "float32", "float16", "bfloat16")
_INTEGERS = ("int64", "int32", "int16", "int8", "uint8", "bool")
_register_lock = threading.Lock()
_registered: list[Any] = []


def build(options: Mapping[str, Any]) -> Backend:
    """A new simulator, active from now on.

    `options`: ``devices``, ``memory`` (bytes per device), ``seed``, ``rules`` (`hardpoint_sim.settings.Rules`) and
    ``profile`` (see `hardpoint_sim.profiles`); each has its default in `Settings`, and the numbers an environment
    variable. ValueError for an option that is not understood, BackendUnavailable if torch's slot cannot be had.

    May be called again: the new engine takes over ``torch.empty(device="sim")``, tensors stay with theirs.
    """
    settings = read_settings(options)
    profile = find(settings.profile) if settings.profile else None
    register()
    engine = Engine(settings)
    active.activate(engine)
    device = SimDevice(engine)
    backend = Backend(
        info=hardpoint_info(),
        device=device,
        communicator=SimCommunicatorFactory(engine, CAPABILITIES),
        capabilities=CAPABILITIES,
        launcher=SimLauncher(engine),
        graphs=SimGraphs(engine),
        memory_map=SimMemoryMap(engine),
    )
    return backend if profile is None else profile(backend, SimRuntime(engine, limits_of(settings.profile)))


CAPABILITIES = Capabilities(
    dtypes=frozenset(_FLOATS + _INTEGERS),
    communication_dtypes=GLOO_DTYPES,
    reduce_ops=GLOO_REDUCE_OPS,
    graph=True,
    sleep=True,
    streams=True,
    ranks_share_device=True,  # a simulated device belongs to one process: every process has its own sim:0
    extras={
        "compares_calls": "ranks compare op, shape, dtype and root of a collective before data moves",
        "all_to_all": "rows to every rank by counts of their own, gloo's alltoall_base; counts are compared too",
    },
)


def register() -> None:
    """Take torch's slot and register the factories, once per process."""
    with _register_lock:
        if _registered:
            return
        reason = slot.refusal()
        if reason is not None:
            raise BackendUnavailable(f"the backend 'sim' cannot be used: {reason}")
        slot.take(SimModule())
        torch_names.install()
        _registered.append(factories.register())
