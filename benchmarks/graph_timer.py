"""Device time of a call: replays of a CUDA graph that holds one call per set of inputs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Microseconds of one call: median, and half of the distance between the 20 % and 80 % quantiles."""

    us: float
    spread: float


def graph_us(calls: Sequence[Callable[[], object]], *, replays: int = 25, budget_ms: float = 250.0) -> Timing:
    """Capture all calls once, replay, and divide: nothing of the host is in it, and no input is in the cache."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    first = _replay_ms(graph)
    replays = max(5, min(replays, int(budget_ms / max(first, 1e-3))))
    for _ in range(2):
        graph.replay()
    times = sorted(_replay_ms(graph) / len(calls) * 1e3 for _ in range(replays))
    ordered = statistics.quantiles(times, n=5)
    return Timing(statistics.median(times), (ordered[-1] - ordered[0]) / 2)


def host_us(call: Callable[[], object], batch: int = 100, batches: int = 21) -> float:
    """Median host microseconds of one call; the queue is emptied between batches."""
    for _ in range(batch):
        call()
    times = []
    for _ in range(batches):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(batch):
            call()
        times.append((time.perf_counter() - begin) / batch * 1e6)
    return statistics.median(times)


def _replay_ms(graph: torch.cuda.CUDAGraph) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    graph.replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)
