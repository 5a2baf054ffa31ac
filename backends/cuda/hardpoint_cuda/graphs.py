"""`CudaGraphs`: CUDA graph capture through torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from hardpoint.errors import CaptureRefused


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
        made = CudaGraph(torch.cuda.CUDAGraph(), device_index)
        with torch.cuda.device(device_index):
            stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            try:
                with torch.cuda.graph(made.graph, stream=stream, capture_error_mode="thread_local"):
                    yield made
            except BaseException as error:
                made.problem = f"its capture ended with {type(error).__name__}: {error}"
                raise
        made.problem = None
