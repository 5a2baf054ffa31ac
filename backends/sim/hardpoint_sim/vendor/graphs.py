"""Graphs as vendors have them: an object that is captured into, a budget of streams, and tasks that can be updated."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hardpoint.errors import DeviceError
from hardpoint_sim.capture import Recording
from hardpoint_sim.engine import Engine
from hardpoint_sim.graphs import SimGraph, SimGraphs
from hardpoint_sim.stream import SimStream


class VendorGraph:
    """``XPUGraph()``, ``NPUGraph()``: empty until something is captured into it."""

    def __init__(self) -> None:
        self.captured: SimGraph | None = None

    def replay(self) -> None:
        if self.captured is None:
            raise DeviceError("replay of a graph into which nothing was captured")
        self.captured.replay()


@dataclass(frozen=True)
class TaskHandle:
    """Work of a capture that may be exchanged later: items ``[begin, end)`` of `recording`."""

    recording: Recording
    begin: int
    end: int


@dataclass(frozen=True)
class VendorGraphs:
    """Capture and task updates of one engine; `streams` is what live graphs of a device may hold, None for no limit."""

    engine: Engine
    streams: int | None
    _held: defaultdict[int, int] = field(init=False, default_factory=lambda: defaultdict(int))
    _open: dict[int, Any] = field(init=False, default_factory=dict)

    @contextmanager
    def capture(self, graph: VendorGraph, index: int) -> Iterator[None]:
        """Record the block into `graph` on a new stream, which it holds while it lives."""
        if self.streams is not None and self._held[index] >= self.streams:
            raise DeviceError(
                f"error code 207008: sim:{index} has no stream resource left, live graphs hold {self._held[index]}"
            )
        self._held[index] += 1
        weakref.finalize(graph, self._give_back, index)
        with SimGraphs(self.engine).capture(index) as captured:
            yield
        graph.captured = captured

    def capturing(self) -> bool:
        return SimGraphs(self.engine).capturing()

    def begin_task(self, stream: SimStream) -> None:
        """What is queued on `stream` until `end_task` can be exchanged. DeviceError outside a capture."""
        if stream.recording is None:
            raise DeviceError(f"graph_task_group_begin on {stream!r}, which is not being captured")
        self._open[stream.stream_id] = len(stream.recording.work)

    def end_task(self, stream: SimStream) -> TaskHandle:
        recording, begin = stream.recording, self._open.pop(stream.stream_id)
        if recording is None:
            raise DeviceError(f"graph_task_group_end on {stream!r}, whose capture has ended")
        return TaskHandle(recording, begin, len(recording.work))

    def begin_update(self, stream: SimStream, handle: TaskHandle) -> None:
        """What is queued on `stream` until `end_update` takes the place of the task's work; nothing of it runs now."""
        if handle.recording.open:
            raise DeviceError("graph_task_update_begin during the capture of the task")
        if stream.recording is not None:
            raise DeviceError(f"graph_task_update_begin on {stream!r}, which is being captured")
        stream.recording = Recording(stream)
        self._open[stream.stream_id] = handle

    def end_update(self, stream: SimStream) -> None:
        """DeviceError, with the task as it was, unless as much was queued as the task has."""
        handle, made = self._open.pop(stream.stream_id), stream.recording
        stream.recording = None
        if made is None or len(made.work) != handle.end - handle.begin:
            found = 0 if made is None else len(made.work)
            raise DeviceError(
                f"graph_task_update_end: the task has {handle.end - handle.begin} kernels, the update {found}"
            )
        handle.recording.work[handle.begin : handle.end] = made.work

    def _give_back(self, index: int) -> None:
        self._held[index] -= 1
