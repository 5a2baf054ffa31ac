"""`CudaGraphs`: CUDA graph capture through torch."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from hardpoint.errors import CaptureRefused

# Destroying a graph is not permitted while this thread captures another one (it ends that capture), and Python drops
# the old graph of ``with capture() as graph`` when the new capture has begun. So graphs that are dropped wait here.
_dropped: list[torch.cuda.CUDAGraph] = []


@dataclass
class CudaGraph:
    """A captured graph and the device it replays on.

    Attributes:
        graph: torch's.
        device_index: where it was captured.
        problem: why it cannot be replayed, None once its capture has ended well.
    """

    graph: torch.cuda.CUDAGraph
    device_index: int
    problem: str | None = "its capture has not ended yet"

    def replay(self) -> None:
        """Queue the captured work on the current stream of the graph's device. CaptureRefused if it cannot be."""
        if self.problem is not None:
            raise CaptureRefused(f"this graph of cuda:{self.device_index} cannot be replayed: {self.problem}")
        with torch.cuda.device(self.device_index):
            self.graph.replay()

    def __del__(self) -> None:
        _dropped.append(self.graph)
        if not torch.cuda.is_current_stream_capturing():
            _dropped.clear()


@dataclass(frozen=True)
class CudaGraphs:
    """Graph capture of one process. Tensors allocated inside a capture come from the graph's own memory pool."""

    def supported(self, device_index: int, model: str = "", dtype: str = "") -> str | None:
        if not 0 <= device_index < torch.cuda.device_count():
            return f"there is no device cuda:{device_index}"
        return None

    def capturing(self) -> bool:
        return torch.cuda.is_current_stream_capturing()

    @contextmanager
    def capture(self, device_index: int) -> Iterator[CudaGraph]:
        """Record what the block does on ``cuda:device_index``, on a stream of its own.

        CaptureRefused if there is no such device or this thread is capturing already. An error inside the block ends
        the capture and passes through; the graph then refuses to be replayed. Other threads go on meanwhile: the
        capture's mode is thread_local, since a watchdog's query in another thread would end a global one.
        """
        reason = self.supported(device_index)
        if reason is not None:
            raise CaptureRefused(f"no graph can be captured: {reason}")
        if self.capturing():
            raise CaptureRefused("this thread's stream is being captured already; captures do not nest")
        _dropped.clear()
        made = CudaGraph(torch.cuda.CUDAGraph(), device_index)
        with torch.cuda.device(device_index):
            stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            try:
                with (
                    _no_garbage_collection(),
                    torch.cuda.graph(made.graph, stream=stream, capture_error_mode="thread_local"),
                ):
                    yield made
            except BaseException as error:
                made.problem = f"its capture ended with {type(error).__name__}: {error}"
                _mend(stream)
                raise
        made.problem = None


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection may destroy somebody's graph or event, which is not permitted in a capture and ends it."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def _mend(stream: torch.cuda.Stream) -> None:
    """Capture next to nothing once: where the end of a capture failed, torch leaves the device's random generator in
    its capturing state, and every random tensor after it is refused until a capture ends well (torch 2.11)."""
    token = torch.zeros(1, device=stream.device)
    with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=stream, capture_error_mode="thread_local"):
        token.zero_()
