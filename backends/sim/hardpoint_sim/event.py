"""`SimEvent`: a mark in a stream. Done only when the work before its last record has really run.

torch's own ``torch.Event(device="sim")`` would lie: with a Python backend its `query` is always True (torch 2.13).
`hardpoint_sim.torch_names` makes that name give this class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hardpoint.errors import CaptureRefused, DeviceError
from hardpoint_sim.work import Mark, Work

if TYPE_CHECKING:
    from hardpoint_sim.capture import Recording
    from hardpoint_sim.engine import Engine
    from hardpoint_sim.stream import SimStream


class SimEvent:
    """An event. One that was never recorded counts as done, as in torch."""

    def __init__(self, engine: Engine, device_index: int | None = None, *, timing: bool = False) -> None:
        self.engine = engine
        self.device_index = device_index
        self.timing = timing
        self._mark: Mark | None = None
        self._ticks: list[float] = []
        self._captured: tuple[Recording, SimStream, int] | None = None

    def query(self) -> bool:
        """True if the last record has been reached. Asking lets the device advance a step, so polling loops end."""
        self._refuse_in_capture("query")
        return self._mark is None or self.engine.poll(self._mark, "query of an event")

    def synchronize(self) -> None:
        """Wait for the last record. DeviceFault if work before it failed."""
        self._refuse_in_capture("synchronize")
        if self._mark is not None:
            self.engine.wait([self._mark], "synchronize of an event")

    def record(self, stream: Any = None, /) -> None:
        """Mark the end of what is submitted to `stream` (None: the current one); forgets an earlier record."""
        stream = self._own("recorded in", self.engine.current_stream(self.device_index) if stream is None else stream)
        if self.device_index is not None and stream.device_index != self.device_index:
            raise DeviceError(
                f"an event of sim:{self.device_index} cannot be recorded in {stream!r}; record it in a stream of its "
                "own device, other devices may wait for it"
            )
        with self.engine.lock:
            self.device_index = stream.device_index
            if stream.recording is not None:
                self._captured, self._mark = (stream.recording, stream, stream.recording.written(stream)), None
                return
            ticks: list[float] = []
            self._captured, self._ticks = None, ticks
            self.engine.submit(stream, Work("record of an event", lambda _: ticks.append(self.engine.clock)))
            self._mark = stream.mark()

    def wait(self, stream: Any = None, /) -> None:
        """Work submitted to `stream` (None: the current one) from now on runs after the last record."""
        stream = self._own("waited for by", self.engine.current_stream() if stream is None else stream)
        with self.engine.lock:
            if self._captured is not None and self._captured[0].open:
                recording, source, position = self._captured
                recording.join(stream, source, position)
                return
            if stream.recording is not None and self._mark is not None:
                raise CaptureRefused(
                    f"{stream!r} is being captured and was told to wait for an event recorded outside the capture; a "
                    "graph cannot depend on it: wait before the capture starts, or record the event inside"
                )
            if self._mark is not None:
                self.engine.submit(stream, Work("wait for an event", _nothing, after=(self._mark,)))

    def elapsed_time(self, end: Any, /) -> float:
        """Simulated milliseconds from this record to `end`'s; every work item takes one microsecond."""
        for name, event in (("start", self), ("end", end)):
            if not event.timing:
                raise DeviceError(f"the {name} event was made without timing=True, so it has no time")
            if event._mark is None:
                raise DeviceError(f"the {name} event was never recorded, so it has no time")
            if not event._mark.passed:
                raise DeviceError(f"the {name} event has not been reached yet; synchronize it before asking the time")
        return float(end._ticks[0] - self._ticks[0])

    def _own(self, verb: str, stream: Any) -> SimStream:
        from hardpoint_sim.stream import SimStream

        if not isinstance(stream, SimStream) or stream.engine is not self.engine:
            raise DeviceError(f"an event of a simulator can be {verb} streams of that simulator only, got {stream!r}")
        return stream

    def _refuse_in_capture(self, what: str) -> None:
        if self._captured is not None and self._captured[0].open:
            raise CaptureRefused(f"{what} of an event that was recorded inside a running capture: it never runs there")

    def __repr__(self) -> str:
        where = "" if self.device_index is None else f" of sim:{self.device_index}"
        return f"event{where}"


def _nothing(_: int) -> None:
    return None
