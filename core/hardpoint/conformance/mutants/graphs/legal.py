"""Different and right."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

from hardpoint.backend import Backend
from hardpoint.conformance.mutant import LegalVariant
from hardpoint.conformance.mutants.graphs._plant import (
    allocating,
    replaying,
    with_graphs,
)
from hardpoint.errors import CaptureRefused


def _waits(backend: Backend) -> Backend:
    def replay(graph: Any, index: int) -> None:
        backend.device.synchronize(index)
        graph.replay()
        backend.device.synchronize(index)

    return replaying(backend, replay)


waits = LegalVariant(
    "graphs.replay-waits",
    "graphs",
    "A replay waits for its device before and after: more synchronisation than asked for.",
    _waits,
)


def _quiet(backend: Backend) -> Backend:
    @contextlib.contextmanager
    def capture(index: int) -> Iterator[Any]:
        for other in range(backend.device.count()):
            if not backend.graphs.capturing() and 0 <= index < backend.device.count():
                backend.device.synchronize(other)
        gc.collect()
        with backend.graphs.capture(index) as graph:
            yield graph
        gc.collect()

    return with_graphs(backend, capture=capture)


quiet = LegalVariant(
    "graphs.capture-makes-all-quiet",
    "graphs",
    "A capture collects garbage and waits for every device before it begins.",
    _quiet,
)

allocates = LegalVariant(
    "graphs.captures-may-allocate",
    "graphs",
    "Memory that is allocated inside a capture belongs to the graph, and nobody else gets it.",
    lambda backend: allocating(backend, shared=False),
)


def _refuses_at_the_call(backend: Backend) -> Backend:
    def capture(index: int) -> Any:
        reason = "a capture is under way" if backend.graphs.capturing() else backend.graphs.supported(index)
        if reason is not None:
            raise CaptureRefused(f"no graph can be captured on device {index}: {reason}")
        return backend.graphs.capture(index)

    return with_graphs(backend, capture=capture)


refuses_at_the_call = LegalVariant(
    "graphs.refuses-at-the-call",
    "graphs",
    "`capture` refuses when it is called and not when its block is entered.",
    _refuses_at_the_call,
)
