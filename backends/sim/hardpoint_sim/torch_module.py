"""``torch.sim``: what ``torch.get_device_module("sim")`` answers; every name is true of the active engine."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

from hardpoint_sim import active
from hardpoint_sim.event import SimEvent
from hardpoint_sim.stream import SimStream


class SimModule:
    """The device module that torch looks up by name."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        return active.engine().count

    def current_device(self) -> int:
        return active.engine().current()

    def set_device(self, device: Any) -> None:
        active.engine().set_current(_index(device))

    def device(self, device: Any) -> AbstractContextManager[None]:
        return active.engine().use(_index(device))

    def synchronize(self, device: Any = None) -> None:
        active.engine().synchronize(_index(device))

    def current_stream(self, device: Any = None) -> SimStream:
        return active.engine().current_stream(_index(device))

    def set_stream(self, stream: SimStream) -> None:
        active.engine().set_stream(stream)

    def stream(self, stream: SimStream) -> AbstractContextManager[None]:
        return active.engine().use_stream(stream)

    def Stream(self, device: Any = None) -> SimStream:
        return active.engine().new_stream(_index(device))

    def Event(self, enable_timing: bool = False) -> SimEvent:
        return SimEvent(active.engine(), timing=enable_timing)

    def manual_seed(self, seed: int) -> None:
        active.engine().manual_seed(seed, active.engine().current())

    def manual_seed_all(self, seed: int) -> None:
        active.engine().manual_seed(seed)

    def empty_cache(self) -> None:
        return None

    def memory_allocated(self, device: Any = None) -> int:
        return active.engine().state(_index(device)).budget.allocated

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        budget = active.engine().state(_index(device)).budget
        return budget.total - budget.allocated, budget.total

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


def _index(device: Any) -> int:
    if device is None:
        return active.engine().current()
    if isinstance(device, int):
        return device
    index = torch.device(device).index
    return active.engine().current() if index is None else index
