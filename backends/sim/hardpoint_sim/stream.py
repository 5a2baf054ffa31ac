"""`SimStream`: a queue of work on one simulated device, run in order, and late.

torch's own ``torch.Stream(device="sim:1")`` would lie: with a Python backend every such stream is one and the same
stream of device 0 (torch 2.13, ``PythonDeviceGuard``). `hardpoint_sim.torch_names` makes that name give this class.
"""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Any

from hardpoint.errors import DeviceError
from hardpoint_sim.event import SimEvent
from hardpoint_sim.work import Mark, Work

if TYPE_CHECKING:
    import torch

    from hardpoint_sim.capture import Recording
    from hardpoint_sim.engine import Engine


class SimStream:
    """A stream of one device. The methods are those of ``torch.Stream``; all are safe to call from any thread."""

    def __init__(self, engine: Engine, device_index: int, stream_id: int) -> None:
        self.engine = engine
        self.device_index = device_index
        self.stream_id = stream_id
        self.queue: deque[Work] = deque()
        self.submitted = 0
        self.completed = 0
        self.last_submission = 0
        self.recording: Recording | None = None
        self._entered: list[Any] = []

    @property
    def device(self) -> torch.device:
        return self.engine.torch_device(self.device_index)

    def mark(self) -> Mark:
        """The end of what is submitted so far."""
        return Mark(self, self.submitted)

    def query(self) -> bool:
        """True if all submitted work has run. Asking lets the device advance a step, so polling loops end."""
        return self.engine.poll(self.mark(), f"query of {self!r}")

    def synchronize(self) -> None:
        """Wait for all work submitted to this stream. DeviceFault if some of it failed."""
        self.engine.wait([self.mark()], f"synchronize of {self!r}")

    def wait_event(self, event: Any, /) -> None:
        """Work submitted from now on runs after the event's last record."""
        if not isinstance(event, SimEvent):
            raise DeviceError(f"{self!r} can wait for an event of the simulator only, got {_whose(event)}")
        event.wait(self)

    def wait_stream(self, stream: Any, /) -> None:
        """Work submitted from now on runs after what is in `stream` now."""
        if not isinstance(stream, SimStream):
            raise DeviceError(f"{self!r} can wait for a stream of the simulator only, got {_whose(stream)}")
        self.wait_event(stream.record_event())

    def record_event(self, event: Any = None, /) -> SimEvent:
        """Record `event` (None: a new one) after what is submitted so far, and return it."""
        if event is None:
            event = SimEvent(self.engine)
        if not isinstance(event, SimEvent):
            raise DeviceError(f"{self!r} can record an event of the simulator only, got {_whose(event)}")
        event.record(self)
        return event

    def __enter__(self) -> SimStream:
        scope = self.engine.use_stream(self)
        scope.__enter__()
        self._entered.append(scope)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._entered.pop().__exit__(kind, error, traceback)

    def __repr__(self) -> str:
        return f"stream {self.stream_id} of sim:{self.device_index}"


def _whose(thing: object) -> str:
    return f"a {type(thing).__module__}.{type(thing).__qualname__}"
