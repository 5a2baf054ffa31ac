"""Faults in what happens when something goes wrong in a capture, or allocates in it."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from hardpoint.backend import Backend
from hardpoint.conformance.mutants._launch import aside
from hardpoint.conformance.mutants._proxy import Changed
from hardpoint.conformance.mutants.graphs._plant import (
    allocating,
    plant,
    with_graphs,
)
from hardpoint.errors import CaptureRefused

# -- what goes wrong in a capture ----------------------------------------------------------------------------------


def _closed_in_order(backend: Backend, replay: Callable[[Any], None] = lambda graph: graph.replay()) -> Backend:
    """An error in the block is raised only when the capture has ended as if there were none."""

    @contextlib.contextmanager
    def capture(index: int) -> Iterator[Any]:
        errors: list[BaseException] = []
        with backend.graphs.capture(index) as graph:
            try:
                yield Changed(graph, replay=lambda: graph.replay() if not errors else replay(graph))
            except BaseException as error:  # noqa: BLE001 - raised again below
                errors.append(error)
        if errors:
            raise errors[0]

    return with_graphs(backend, capture=capture)


failed_capture_replays = plant(
    "failed-capture-replays",
    "a-failed-capture-cannot-be-replayed",
    "After an error in its block a graph replays what was recorded before it.",
    _closed_in_order,
)

failed_capture_replays_nothing = plant(
    "failed-capture-replays-nothing",
    "a-failed-capture-cannot-be-replayed",
    "After an error in its block a graph replays nothing, without a word.",
    lambda backend: _closed_in_order(backend, lambda graph: None),
)


def _failed_runs(backend: Backend) -> Backend:
    @contextlib.contextmanager
    def capture(index: int) -> Iterator[Any]:
        failed: list[BaseException] = []

        def replay() -> None:
            if failed:
                raise CaptureRefused("the capture of this graph failed")
            graph.replay()

        with backend.graphs.capture(index) as graph:
            try:
                yield Changed(graph, replay=replay)
            except BaseException as error:  # noqa: BLE001 - raised again below
                failed.append(error)
        if failed:
            graph.replay()
            raise failed[0]

    return with_graphs(backend, capture=capture)


failed_capture_runs = plant(
    "failed-capture-runs",
    "a-failed-capture-cannot-be-replayed",
    "When the block of a capture raises, what was recorded so far is run, as if there had been no capture.",
    _failed_runs,
)


def _fails_for_good(backend: Backend) -> Backend:
    failed: list[int] = []

    @contextlib.contextmanager
    def capture(index: int) -> Iterator[Any]:
        if failed:
            raise CaptureRefused("an earlier capture failed")
        try:
            with backend.graphs.capture(index) as graph:
                yield graph
        except BaseException:
            failed.append(index)
            raise

    return with_graphs(backend, capture=capture)


fails_for_good = plant(
    "no-capture-after-a-failed-one",
    "a-failed-capture-cannot-be-replayed",
    "After one failed capture every later one is refused.",
    _fails_for_good,
)


def _joins_outer(backend: Backend) -> Backend:
    mine = threading.local()

    @contextlib.contextmanager
    def capture(index: int) -> Iterator[Any]:
        if getattr(mine, "graph", None) is not None:
            yield mine.graph
            return
        with backend.graphs.capture(index) as graph:
            mine.graph = graph
            try:
                yield graph
            finally:
                mine.graph = None

    return with_graphs(backend, capture=capture)


nested_joins_outer = plant(
    "nested-joins-outer",
    "nested-capture-is-refused",
    "A capture inside a capture becomes part of it.",
    _joins_outer,
)


def _nested_is_stuck(backend: Backend) -> Backend:
    """The refusal of an inner capture leaves a mark that the outer one does not clear."""
    mine = threading.local()

    @contextlib.contextmanager
    def capture(index: int) -> Iterator[Any]:
        mine.depth = getattr(mine, "depth", 0) + 1
        with backend.graphs.capture(index) as graph:
            try:
                yield graph
            finally:
                mine.depth -= 1

    return with_graphs(backend, capture=capture, capturing=lambda: getattr(mine, "depth", 0) > 0)


nested_is_stuck = plant(
    "nested-leaves-capturing",
    "nested-capture-is-refused",
    "A nested capture is refused, and `capturing` stays true for good.",
    _nested_is_stuck,
)


class _Aside(TorchFunctionMode):
    """Makes the calls that `taken` picks in another thread, beside the capture."""

    def __init__(self, backend: Backend, index: int, taken: Callable[[Any], bool]) -> None:
        super().__init__()
        self.backend, self.index, self.taken = backend, index, taken
        self.kept: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = functools.partial(func, *args, **(kwargs or {}))
        if not self.taken(func):
            return call()
        self.kept.append(aside(self.backend, self.index, call))
        return self.kept[-1]


def _reads(backend: Backend, *functions: Any) -> Backend:
    @contextlib.contextmanager
    def capture(index: int) -> Iterator[Any]:
        with backend.graphs.capture(index) as graph, _Aside(backend, index, lambda func: func in functions):
            yield graph

    return with_graphs(backend, capture=capture)


reads_old_values = plant(
    "reads-old-values",
    "reads-in-a-capture-are-refused",
    "A value that is read inside a capture is the one from before it.",
    lambda backend: _reads(backend, torch.Tensor.item, torch.Tensor.tolist),
)

copies_old_values = plant(
    "copies-old-values",
    "reads-in-a-capture-are-refused",
    "A copy to the host inside a capture has the values from before it.",
    lambda backend: _reads(backend, torch.Tensor.cpu),
)


def _synchronize_passes(backend: Backend) -> Backend:
    def synchronize(index: int | None = None) -> None:
        if not backend.graphs.capturing():
            backend.device.synchronize(index)

    changed: Any = Changed(backend.device, synchronize=synchronize)
    return replace(backend, device=changed)


synchronize_passes = plant(
    "synchronize-passes",
    "reads-in-a-capture-are-refused",
    "Waiting for the device inside a capture returns at once, although nothing has run.",
    _synchronize_passes,
)


def _stream_wait_passes(backend: Backend) -> Backend:
    def current_stream(index: int | None = None) -> Any:
        stream = backend.device.current_stream(index)
        return Changed(stream, synchronize=lambda: None) if backend.graphs.capturing() else stream

    changed: Any = Changed(backend.device, current_stream=current_stream)
    return replace(backend, device=changed)


stream_wait_passes = plant(
    "stream-wait-passes",
    "reads-in-a-capture-are-refused",
    "Waiting for the captured stream returns at once, although nothing has run.",
    _stream_wait_passes,
)


# -- allocations ---------------------------------------------------------------------------------------------------


gives_out_memory = plant(
    "gives-out-memory-of-graphs",
    "allocations-in-a-capture-harm-nobody",
    "Memory that was allocated and freed inside a capture goes to the next who asks, and each replay writes to it.",
    lambda backend: allocating(backend, shared=True),
)


def _allocations_aside(backend: Backend) -> Backend:
    products = (torch.Tensor.mul, torch.Tensor.__mul__, torch.mul)
    kept: list[Any] = []

    @contextlib.contextmanager
    def capture(index: int) -> Iterator[Any]:
        mode = _Aside(backend, index, lambda func: func in products)
        kept.append(mode)  # with the results, which a replay reads
        with backend.graphs.capture(index) as graph, mode:
            yield graph

    return with_graphs(backend, capture=capture)


allocations_run_eagerly = plant(
    "allocating-operations-run-eagerly",
    "allocations-in-a-capture-harm-nobody",
    "An operation that allocates inside a capture runs at once, and its result is frozen into the graph.",
    _allocations_aside,
)
