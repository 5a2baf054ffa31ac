"""``torch.accelerator``, ``torch.Stream`` and ``torch.Event`` made to tell the truth about simulated devices.

With a Python backend torch 2.13 answers for them in C++ and asks nobody (``PythonDeviceGuard``): the current device is
always 0 and setting it does nothing, every stream is stream 0 of device 0, an event is always done. Code under test
would be right or wrong by chance. `install` routes these names to the active engine, for the life of the process, as
the slot is taken for the life of the process. References that were taken before stay as they were: that is the part
that cannot be prevented, and why backends' own code should use the `Device` part.
"""

from __future__ import annotations

from typing import Any

import torch

from hardpoint_sim import active
from hardpoint_sim.event import SimEvent
from hardpoint_sim.slot import DEVICE_TYPE
from hardpoint_sim.stream import SimStream


def install() -> None:
    """Replace the names. Idempotent."""
    if isinstance(torch.Stream, _Truthful):
        return
    for name, function in _ACCELERATOR.items():
        setattr(torch._C, name, function)
    torch.Stream = _truthful(torch.Stream, SimStream, _make_stream)  # type: ignore[misc]
    torch.Event = _truthful(torch.Event, SimEvent, _make_event)  # type: ignore[misc]


class _Truthful(type):
    """Metaclass of the stand-ins: the simulator's own objects count as instances, and so do torch's."""

    original: type
    ours: type

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, (cls.original, cls.ours))

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, (cls.original, cls.ours))


def _truthful(original: type, ours: type, make: Any) -> Any:
    def new(cls: type, *args: Any, **kwargs: Any) -> Any:
        if _names_simulator(args, kwargs):
            return make(*args, **kwargs)
        return original(*args, **kwargs)

    names = {"__new__": new, "original": original, "ours": ours, "__doc__": original.__doc__, "__module__": "torch"}
    return _Truthful(original.__name__, (original,), names)


def _names_simulator(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    device = args[0] if args else kwargs.get("device")
    if device is None and not {"stream_id", "device_index", "device_type"} & set(kwargs):
        accelerator = torch.accelerator.current_accelerator()
        return accelerator is not None and accelerator.type == DEVICE_TYPE
    return isinstance(device, (str, torch.device)) and torch.device(device).type == DEVICE_TYPE


def _make_stream(device: Any = None, *, priority: int = 0) -> SimStream:
    """Priorities are accepted and change nothing: a priority is a hint, never an order."""
    return active.engine().new_stream(_index(device))


def _make_event(
    device: Any = None, *, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False
) -> SimEvent:
    if interprocess:
        raise NotImplementedError("events of the simulator cannot be shared between processes")
    return SimEvent(active.engine(), None if device is None else _index(device), timing=enable_timing)


def _index(device: Any) -> int:
    engine = active.engine()
    index = None if device is None else device if isinstance(device, int) else torch.device(device).index
    return engine.current() if index is None else engine.state(index).index


def _set_device(index: int) -> None:
    active.engine().set_current(index)


def _exchange_device(index: int) -> int:
    engine = active.engine()
    before = engine.current()
    if index >= 0:
        engine.set_current(index)
    return before


def _memory_info(index: int) -> tuple[int, int]:
    budget = active.engine().state(index).budget
    return budget.total - budget.allocated, budget.total


def _set_stream(stream: Any) -> None:
    active.engine().set_stream(stream)


_ACCELERATOR: dict[str, Any] = {
    "_accelerator_getDeviceIndex": lambda: active.engine().current(),
    "_accelerator_setDeviceIndex": _set_device,
    "_accelerator_exchangeDevice": _exchange_device,
    "_accelerator_maybeExchangeDevice": _exchange_device,
    "_accelerator_getStream": lambda index: active.engine().current_stream(_index(index)),
    "_accelerator_setStream": _set_stream,
    "_accelerator_synchronizeDevice": lambda index: active.engine().synchronize(_index(index)),
    "_accelerator_getMemoryInfo": _memory_info,
    "_accelerator_emptyCache": lambda: None,
}
