"""`RuntimeGraphs`: graph capture by a vendor whose calls are gathered in one narrow object, its `GraphRuntime`."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from hardpoint.errors import CaptureRefused


class GraphRuntime(Protocol):
    """What graph capture needs of a vendor's module."""

    @property
    def device_type(self) -> str: ...
    def device_count(self) -> int: ...
    def current_device(self) -> int: ...
    def set_device(self, index: int) -> None: ...

    def graph_refusal(self) -> str | None:
        """Why this torch or driver has no graphs, as a sentence; None if it has them."""
        ...

    def new_graph(self) -> Any:
        """An empty graph object with a `replay`."""
        ...

    def capture(self, graph: Any, index: int) -> AbstractContextManager[None]:
        """Record the block into `graph` on a new stream of the device, which is current inside."""
        ...

    def capturing(self) -> bool:
        """The calling thread's current stream is being captured."""
        ...


@dataclass(eq=False)
class CapturedGraph:
    """A captured graph and the device it replays on.

    Attributes:
        graph: the vendor's.
        device_index: where it was captured.
        problem: why it cannot be replayed, None once its capture has ended well.
    """

    runtime: GraphRuntime
    graph: Any
    device_index: int
    problem: str | None = "its capture has not ended yet"

    def replay(self) -> None:
        """Queue the captured work on the current stream of the graph's device. CaptureRefused if it cannot be."""
        if self.problem is not None:
            where = f"{self.runtime.device_type}:{self.device_index}"
            raise CaptureRefused(f"this graph of {where} cannot be replayed: {self.problem}")
        before = self.runtime.current_device()
        self.runtime.set_device(self.device_index)
        try:
            self.graph.replay()
        finally:
            self.runtime.set_device(before)


@dataclass(frozen=True)
class RuntimeGraphs:
    """Graph capture of one process."""

    runtime: GraphRuntime

    def supported(self, device_index: int, model: str = "", dtype: str = "") -> str | None:
        if not 0 <= device_index < self.runtime.device_count():
            return f"there is no device {self.runtime.device_type}:{device_index}"
        return self.runtime.graph_refusal()

    def capturing(self) -> bool:
        return self.runtime.capturing()

    @contextmanager
    def capture(self, device_index: int) -> Iterator[CapturedGraph]:
        """Record what the block does on the device.

        CaptureRefused if it is not supported there or this thread is capturing already. An error inside the block ends
        the capture and passes through; the graph then refuses to be replayed.
        """
        reason = self.supported(device_index)
        if reason is not None:
            raise CaptureRefused(f"no graph can be captured: {reason}")
        if self.capturing():
            raise CaptureRefused("this thread's stream is being captured already; captures do not nest")
        made = self._new(device_index)
        try:
            with _no_garbage_collection(), self.runtime.capture(made.graph, device_index):
                yield made
        except BaseException as error:
            made.problem = f"its capture ended with {type(error).__name__}: {error}"
            raise
        made.problem = None

    def _new(self, device_index: int) -> CapturedGraph:
        return CapturedGraph(self.runtime, self.runtime.new_graph(), device_index)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection may destroy somebody's graph or event, which may not be done in a capture and may end it."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()
