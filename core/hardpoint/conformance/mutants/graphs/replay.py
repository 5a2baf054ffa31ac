"""Faults in capture and replay."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from hardpoint.backend import Backend
from hardpoint.conformance.mutants._launch import aside, default_stream, mapped
from hardpoint.conformance.mutants._proxy import Changed
from hardpoint.conformance.mutants.graphs._plant import (
    Nothing,
    plant,
    replaying,
    with_graphs,
    with_new_graphs,
)


@contextlib.contextmanager
def _no_capture(index: int) -> Iterator[Any]:
    yield Nothing()


eager_and_never_replayed = plant(
    "eager-and-never-replayed",
    "capture-records-and-replay-runs",
    "The block of a capture runs eagerly, nothing is recorded, and a replay does nothing.",
    lambda backend: with_graphs(backend, capture=_no_capture),
)


def _also_runs(backend: Backend) -> Backend:
    @contextlib.contextmanager
    def capture(index: int) -> Iterator[Any]:
        with backend.graphs.capture(index) as graph:
            yield graph
        with backend.device.use(index):
            graph.replay()

    return with_graphs(backend, capture=capture)


capture_also_runs = plant(
    "capture-also-runs",
    "capture-records-and-replay-runs",
    "What is captured runs once at the end of the capture as well.",
    _also_runs,
)


def _once(graph: Any, index: int) -> Any:
    left = [graph]
    return Changed(graph, replay=lambda: left.pop().replay() if left else None)


replays_once = plant(
    "replays-once",
    "capture-records-and-replay-runs",
    "The first replay runs the graph, later ones do nothing.",
    lambda backend: with_new_graphs(backend, _once),
)


def _twice(graph: Any, index: int) -> None:
    graph.replay()
    graph.replay()


replays_twice = plant(
    "replays-twice",
    "capture-records-and-replay-runs",
    "A replay runs the graph twice.",
    lambda backend: replaying(backend, _twice),
)


class _Collected(TorchFunctionMode):
    """Takes torch's calls on tensors, to be made later; every one must write into its first or its `out` argument."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        self.calls.append(functools.partial(func, *args, **named))
        return named.get("out", args[0] if args else None)


def _rearranged(backend: Backend, order: Callable[[list[Any]], list[Any]]) -> Backend:
    """What a block does is recorded in the order that `order` makes of it."""

    @contextlib.contextmanager
    def capture(index: int) -> Iterator[Any]:
        with backend.graphs.capture(index) as graph:
            with _Collected() as collected:
                yield graph
            for call in order(collected.calls):
                call()

    return with_graphs(backend, capture=capture)


records_backward = plant(
    "records-backward",
    "capture-records-and-replay-runs",
    "A replay runs what was captured from the last operation to the first.",
    lambda backend: _rearranged(backend, lambda calls: calls[::-1]),
)

loses_the_last = plant(
    "loses-the-last-operation",
    "capture-records-and-replay-runs",
    "The capture ends before the last operation of its block.",
    lambda backend: _rearranged(backend, lambda calls: calls[:-1]),
)

merges_equal = plant(
    "merges-equal-operations",
    "capture-records-and-replay-runs",
    "Two equal operations in a row are recorded as one.",
    lambda backend: _rearranged(
        backend,
        lambda calls: [call for before, call in zip([None, *calls], calls, strict=False) if not _same(before, call)],
    ),
)


def _same(first: Any, second: Any) -> bool:
    return first is not None and (first.func, first.args[1:]) == (second.func, second.args[1:])


class _WithCopies(TorchFunctionMode):
    """Calls torch with a copy of each argument that `frozen` picks: (is it written to)."""

    def __init__(self, backend: Backend, index: int, frozen: Callable[[bool], bool], kept: list[Any]) -> None:
        super().__init__()
        self.backend, self.index, self.frozen, self.kept = backend, index, frozen, kept

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if "out" not in named:
            return func(*args, **named)
        if self.frozen(True):
            named["out"] = self._copy(named["out"])
        if self.frozen(False):
            args = tuple(mapped(value, self._copy) for value in args)
        return func(*args, **named)

    def _copy(self, tensor: torch.Tensor) -> torch.Tensor:
        made = aside(self.backend, self.index, tensor.clone)
        self.kept.append(made)
        return made


def _with_copies(backend: Backend, frozen: Callable[[bool], bool]) -> Backend:
    kept: list[Any] = []

    @contextlib.contextmanager
    def capture(index: int) -> Iterator[Any]:
        with backend.graphs.capture(index) as graph, _WithCopies(backend, index, frozen, kept):
            yield graph

    return with_graphs(backend, capture=capture)


reads_copies = plant(
    "reads-copies",
    "replay-reads-the-captured-addresses",
    "A graph reads copies of its inputs that were made during the capture.",
    lambda backend: _with_copies(backend, lambda written: not written),
)

writes_copies = plant(
    "writes-copies",
    "replay-reads-the-captured-addresses",
    "A graph writes into memory of its own, and nobody copies it to where the results belong.",
    lambda backend: _with_copies(backend, lambda written: written),
)


def _on_stream(backend: Backend, choose: Callable[[int], Any]) -> Backend:
    def replay(graph: Any, index: int) -> None:
        with backend.device.use_stream(choose(index)):
            graph.replay()

    return replaying(backend, replay)


replays_on_own_stream = plant(
    "replays-on-own-stream",
    "replay-is-in-stream-order",
    "A replay runs on a stream of its own, which waits for nobody.",
    lambda backend: _on_stream(backend, backend.device.stream),
)

replays_on_default_stream = plant(
    "replays-on-default-stream",
    "replay-is-in-stream-order",
    "A replay runs on the default stream, whatever stream is current.",
    lambda backend: _on_stream(backend, lambda index: default_stream(backend, index)),
)


def _keeps_stream(backend: Backend) -> Backend:
    @contextlib.contextmanager
    def capture(index: int) -> Iterator[Any]:
        stream = backend.device.current_stream(index)
        with backend.graphs.capture(index) as graph:

            def replay() -> None:
                with backend.device.use_stream(stream):
                    graph.replay()

            yield Changed(graph, replay=replay)

    return with_graphs(backend, capture=capture)


replays_on_stream_of_capture = plant(
    "replays-on-the-stream-of-capture",
    "replay-is-in-stream-order",
    "A replay runs on the stream that was current when the capture began.",
    _keeps_stream,
)
