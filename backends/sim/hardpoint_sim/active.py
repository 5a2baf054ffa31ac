"""The engine that new tensors are made in: the one that was built last, since torch has one simulator slot."""

from __future__ import annotations

from hardpoint.errors import DeviceError
from hardpoint_sim.engine import Engine

_engine: Engine | None = None


def engine() -> Engine:
    """DeviceError before the first `activate`."""
    if _engine is None:
        raise DeviceError("no simulator was built in this process; choose the backend 'sim' first")
    return _engine


def activate(chosen: Engine) -> None:
    """Make `chosen` the engine of ``torch.empty(..., device="sim")``. Tensors stay with the engine that made them."""
    global _engine
    _engine = chosen
