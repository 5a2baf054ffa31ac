"""A fresh simulator per test, and the words that the simulator's tests share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from hardpoint_sim.active import activate
from hardpoint_sim.backend import register
from hardpoint_sim.device import SimDevice
from hardpoint_sim.engine import Engine
from hardpoint_sim.graphs import SimGraphs
from hardpoint_sim.launcher import SimLauncher
from hardpoint_sim.settings import Rules, Settings


@dataclass(frozen=True)
class Simulator:
    engine: Engine
    device: SimDevice
    graphs: SimGraphs
    launcher: SimLauncher


def simulator(settings: Settings | None = None, **rules: Any) -> Simulator:
    """A new simulator that new tensors are made in; `rules` are those of `Rules` that differ from the default."""
    register()
    engine = Engine(replace(settings or Settings(), rules=replace(Rules(), **rules)))
    activate(engine)
    return Simulator(engine, SimDevice(engine), SimGraphs(engine), SimLauncher(engine))


def is_poisoned(tensor: torch.Tensor) -> bool:
    """All of a host tensor is poison."""
    host = tensor.cpu()
    if host.dtype.is_floating_point:
        return bool(host.isnan().all())
    return bool((host == torch.iinfo(host.dtype).max).all())
