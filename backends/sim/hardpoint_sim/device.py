"""`SimDevice`: the `hardpoint.device.Device` part over an engine."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hardpoint.device import DeviceIdentity, MemoryInfo
from hardpoint.errors import DeviceError
from hardpoint_sim.event import SimEvent
from hardpoint_sim.slot import DEVICE_TYPE
from hardpoint_sim.stream import SimStream

if TYPE_CHECKING:
    import torch

    from hardpoint_sim.engine import Engine


@dataclass(frozen=True)
class SimDevice:
    """The devices of one simulator."""

    engine: Engine

    @property
    def type(self) -> str:
        return DEVICE_TYPE

    def count(self) -> int:
        return self.engine.count

    def torch_device(self, index: int | None = None, /) -> torch.device:
        return self.engine.torch_device(self._state(index))

    def current(self) -> int:
        return self.engine.current()

    def use(self, index: int, /) -> AbstractContextManager[None]:
        self.engine.state(index)  # refuse at the call, not at `with`
        return self.engine.use(index)

    def synchronize(self, index: int | None = None, /) -> None:
        self.engine.synchronize(self._state(index))

    def stream(self, index: int | None = None, /) -> SimStream:
        return self.engine.new_stream(index)

    def current_stream(self, index: int | None = None, /) -> SimStream:
        return self.engine.current_stream(index)

    def use_stream(self, stream: Any, /) -> AbstractContextManager[None]:
        if not isinstance(stream, SimStream) or stream.engine is not self.engine:
            raise DeviceError(f"use_stream needs a stream of this simulator (SimDevice.stream), got {stream!r}")
        return self.engine.use_stream(stream)

    def event(self, index: int | None = None, /, *, timing: bool = False) -> SimEvent:
        return SimEvent(self.engine, self._state(index), timing=timing)

    def memory(self, index: int | None = None, /) -> MemoryInfo:
        with self.engine.lock:
            self.engine.heap.bury()
            budget = self.engine.state(self._state(index)).budget
            return MemoryInfo(budget.total - budget.allocated, budget.total, budget.allocated, budget.allocated)

    def empty_cache(self) -> None:
        """Nothing to give back: the simulator caches no memory."""

    def identity(self, index: int | None = None, /) -> DeviceIdentity:
        """Logical and physical index are the same, and there is no hardware id and no visibility variable."""
        logical = self._state(index)
        return DeviceIdentity(logical, str(logical), None, None, None)

    def _state(self, index: int | None) -> int:
        return self.engine.state(self.engine.current() if index is None else index).index
