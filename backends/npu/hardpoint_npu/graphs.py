"""`NpuGraphs`: ACL graphs within the device's streams, with tasks whose arguments can be changed between replays.

Attention on an NPU takes lengths as host integers, which a capture freezes; vllm-ascend captures such a kernel as a
task group and updates it before each replay (compilation/acl_graph.py, attention_v1.py:891, 972-1139). CUDA has no
such hook.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hardpoint.device import Device
from hardpoint.errors import CaptureRefused, DeviceError
from hardpoint.graphs import CapturedGraph, RuntimeGraphs
from hardpoint_npu.facts import GRAPH_CONFLICTS, GRAPH_ERRORS
from hardpoint_npu.runtime import NpuRuntime


@dataclass
class StreamBudget:
    """Streams that live graphs hold, per device."""

    most: int
    held: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def refusal(self, index: int) -> str | None:
        if self.held[index] < self.most:
            return None
        return (
            f"live graphs hold {self.held[index]} of the {self.most} streams npu:{index} has for graphs; a capture "
            "beyond them fails with 207008 and spoils the device. Capture fewer batch sizes, or drop graphs first"
        )

    def take(self, index: int, owner: object) -> None:
        """One stream for as long as `owner` lives."""
        with self._lock:
            self.held[index] += 1
        weakref.finalize(owner, self._give, index)

    def _give(self, index: int) -> None:
        with self._lock:
            self.held[index] -= 1


def forbidden(environment: Mapping[str, str]) -> str | None:
    """The setting that forbids captures, as a sentence; None if there is none."""
    for known in GRAPH_CONFLICTS:
        variable, _, value = known.sign.partition("=")
        if environment.get(variable) == value:
            return f"{known.sign}: {known.advice} ({known.source})"
    return None


@dataclass
class Task:
    """Kernels of a capture that can be given new arguments; `handle` is the vendor's, None until the task ends."""

    graph: CapturedGraph
    handle: Any = None


@dataclass(frozen=True)
class NpuGraphs(RuntimeGraphs):
    """Graph capture of one process."""

    runtime: NpuRuntime
    device: Device
    budget: StreamBudget

    def supported(self, device_index: int, model: str = "", dtype: str = "") -> str | None:
        """None if a capture is allowed now: graphs that are dropped later make room again."""
        refusal = super().supported(device_index, model, dtype) or self.budget.refusal(device_index)
        return refusal or forbidden(os.environ)

    @contextmanager
    def capture(self, device_index: int) -> Iterator[CapturedGraph]:
        """See `RuntimeGraphs.capture`. An error of the driver that is known becomes CaptureRefused with the way out."""
        try:
            with super().capture(device_index) as graph:
                yield graph
        except (RuntimeError, DeviceError) as error:
            known = next((known for known in GRAPH_ERRORS if known.sign in str(error).lower()), None)
            if known is None or isinstance(error, CaptureRefused):
                raise
            raise CaptureRefused(
                f"a capture on npu:{device_index} failed with {known.sign!r}: {known.advice} ({known.source})"
            ) from error

    @contextmanager
    def task(self, graph: CapturedGraph) -> Iterator[Task]:
        """Inside the capture of `graph`: what the block launches becomes one `Task`."""
        if not self.capturing():
            raise CaptureRefused("a task that can be updated is part of a capture, and nothing is being captured here")
        stream = self.device.current_stream(graph.device_index)
        made = Task(graph)
        self.runtime.graph_task_group_begin(stream)
        try:
            yield made
        finally:
            made.handle = self.runtime.graph_task_group_end(stream)

    @contextmanager
    def update(self, task: Task) -> Iterator[None]:
        """The block launches the task's kernels again, with the arguments that the next replays shall use.

        Nothing of the block runs. It has to launch the same kernels as the capture did. Replays of the caller's
        current stream come after the update.
        """
        if task.graph.problem is not None or task.handle is None:
            raise CaptureRefused(f"a task of this graph cannot be updated: {task.graph.problem}")
        index = task.graph.device_index
        side = self.device.stream(index)
        with self.device.use(index):
            caller = self.device.current_stream(index)
            side.wait_stream(caller)  # a replay that is queued still uses the old arguments
            with self.device.use_stream(side):
                self.runtime.graph_task_update_begin(side, task.handle)
                try:
                    yield
                finally:
                    self.runtime.graph_task_update_end(side)
            caller.wait_stream(side)

    def _new(self, device_index: int) -> CapturedGraph:
        made = super()._new(device_index)
        self.budget.take(device_index, made)
        return made
