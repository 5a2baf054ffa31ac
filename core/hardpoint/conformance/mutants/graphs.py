"""Graphs with a fault, and ones that are different and right."""

from __future__ import annotations

import contextlib
import functools
import gc
import inspect
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from hardpoint.backend import Backend
from hardpoint.conformance.mutant import LegalVariant, Mutant
from hardpoint.conformance.mutants._launch import Plain, aside, default_stream, mapped
from hardpoint.conformance.mutants._proxy import Changed
from hardpoint.errors import CaptureRefused
from hardpoint.graphs import NoGraphs
from hardpoint.launcher.python_kernel import _ATTRIBUTE, facts_of

Change = Callable[[Any, int], Any]


def _graphs(backend: Backend, **changes: Any) -> Backend:
    """`backend` with some methods of its graphs changed."""
    changed: Any = Changed(backend.graphs, **changes)
    return replace(backend, graphs=changed)


def _new_graphs(backend: Backend, change: Change) -> Backend:
    """`backend` whose new graphs pass through ``change(graph, device_index)``."""

    @contextlib.contextmanager
    def capture(index: int) -> Iterator[Any]:
        with backend.graphs.capture(index) as graph:
            yield change(graph, index)

    return _graphs(backend, capture=capture)


def _replaying(backend: Backend, replay: Callable[[Any, int], None]) -> Backend:
    """`backend` whose graphs replay by ``replay(graph, device_index)``."""
    return _new_graphs(backend, lambda graph, index: Changed(graph, replay=functools.partial(replay, graph, index)))


def _mutant(name: str, law: str, statement: str, mutate: Callable[[Backend], Backend]) -> Mutant:
    return Mutant(f"graphs.{name}", f"graphs.{law}", "graphs", statement, mutate)


class _Nothing:
    """A graph that is none."""

    def replay(self) -> None:
        return


# -- unsupported -------------------------------------------------------------------------------------------------------


class _YieldsNothing(NoGraphs):
    @contextlib.contextmanager
    def capture(self, device_index: int) -> Iterator[Any]:
        yield _Nothing()


class _RefusesAtTheEnd(NoGraphs):
    @contextlib.contextmanager
    def capture(self, device_index: int) -> Iterator[Any]:
        yield _Nothing()
        super().capture(device_index)


class _NoReason(NoGraphs):
    def supported(self, device_index: int, model: str = "", dtype: str = "") -> str | None:
        return None


class _OtherWords(NoGraphs):
    def capture(self, device_index: int) -> Any:
        raise CaptureRefused("not implemented")


def _without(backend: Backend, graphs: Any) -> Backend:
    return replace(backend, graphs=graphs, capabilities=replace(backend.capabilities, graph=False))


unsupported_runs_eagerly = _mutant(
    "unsupported-runs-eagerly",
    "unsupported-is-refused",
    "Where graphs are not supported the block of a capture runs eagerly, without a word, and a replay does nothing.",
    lambda backend: _without(backend, _YieldsNothing()),
)

unsupported_refused_late = _mutant(
    "unsupported-is-refused-late",
    "unsupported-is-refused",
    "Where graphs are not supported the refusal comes when the block has run.",
    lambda backend: _without(backend, _RefusesAtTheEnd()),
)

unsupported_without_reason = _mutant(
    "unsupported-without-reason",
    "unsupported-is-refused",
    "A backend that does not declare graphs says that they are supported.",
    lambda backend: _without(backend, _NoReason()),
)

unsupported_with_other_words = _mutant(
    "unsupported-refused-without-reason",
    "unsupported-is-refused",
    "The refusal does not give the reason that `supported` gives.",
    lambda backend: _without(backend, _OtherWords()),
)

claimed_and_unsupported = _mutant(
    "claimed-and-unsupported",
    "unsupported-is-refused",
    "Graphs are declared, and refused on the last device.",
    lambda backend: _graphs(
        backend,
        supported=lambda index, model="", dtype="": "no graphs here" if index == backend.device.count() - 1 else None,
    ),
)

missing_device_means_zero = _mutant(
    "missing-device-means-zero",
    "unsupported-is-refused",
    "A capture on a device that does not exist is one on device 0.",
    lambda backend: _graphs(
        backend, capture=lambda index: backend.graphs.capture(index if index < backend.device.count() else 0)
    ),
)


# -- capture and replay ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _no_capture(index: int) -> Iterator[Any]:
    yield _Nothing()


eager_and_never_replayed = _mutant(
    "eager-and-never-replayed",
    "capture-records-and-replay-runs",
    "The block of a capture runs eagerly, nothing is recorded, and a replay does nothing.",
    lambda backend: _graphs(backend, capture=_no_capture),
)


def _also_runs(backend: Backend) -> Backend:
    @contextlib.contextmanager
    def capture(index: int) -> Iterator[Any]:
        with backend.graphs.capture(index) as graph:
            yield graph
        with backend.device.use(index):
            graph.replay()

    return _graphs(backend, capture=capture)


capture_also_runs = _mutant(
    "capture-also-runs",
    "capture-records-and-replay-runs",
    "What is captured runs once at the end of the capture as well.",
    _also_runs,
)


def _once(graph: Any, index: int) -> Any:
    left = [graph]
    return Changed(graph, replay=lambda: left.pop().replay() if left else None)


replays_once = _mutant(
    "replays-once",
    "capture-records-and-replay-runs",
    "The first replay runs the graph, later ones do nothing.",
    lambda backend: _new_graphs(backend, _once),
)


def _twice(graph: Any, index: int) -> None:
    graph.replay()
    graph.replay()


replays_twice = _mutant(
    "replays-twice",
    "capture-records-and-replay-runs",
    "A replay runs the graph twice.",
    lambda backend: _replaying(backend, _twice),
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

    return _graphs(backend, capture=capture)


records_backward = _mutant(
    "records-backward",
    "capture-records-and-replay-runs",
    "A replay runs what was captured from the last operation to the first.",
    lambda backend: _rearranged(backend, lambda calls: calls[::-1]),
)

loses_the_last = _mutant(
    "loses-the-last-operation",
    "capture-records-and-replay-runs",
    "The capture ends before the last operation of its block.",
    lambda backend: _rearranged(backend, lambda calls: calls[:-1]),
)

merges_equal = _mutant(
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

    return _graphs(backend, capture=capture)


reads_copies = _mutant(
    "reads-copies",
    "replay-reads-the-captured-addresses",
    "A graph reads copies of its inputs that were made during the capture.",
    lambda backend: _with_copies(backend, lambda written: not written),
)

writes_copies = _mutant(
    "writes-copies",
    "replay-reads-the-captured-addresses",
    "A graph writes into memory of its own, and nobody copies it to where the results belong.",
    lambda backend: _with_copies(backend, lambda written: written),
)


def _on_stream(backend: Backend, choose: Callable[[int], Any]) -> Backend:
    def replay(graph: Any, index: int) -> None:
        with backend.device.use_stream(choose(index)):
            graph.replay()

    return _replaying(backend, replay)


replays_on_own_stream = _mutant(
    "replays-on-own-stream",
    "replay-is-in-stream-order",
    "A replay runs on a stream of its own, which waits for nobody.",
    lambda backend: _on_stream(backend, backend.device.stream),
)

replays_on_default_stream = _mutant(
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

    return _graphs(backend, capture=capture)


replays_on_stream_of_capture = _mutant(
    "replays-on-the-stream-of-capture",
    "replay-is-in-stream-order",
    "A replay runs on the stream that was current when the capture began.",
    _keeps_stream,
)


# -- capturing ---------------------------------------------------------------------------------------------------------

never_capturing = _mutant(
    "never-capturing",
    "capturing-tells-the-truth",
    "`capturing` is always false.",
    lambda backend: _graphs(backend, capturing=lambda: False),
)


def _counted(backend: Backend, forget_after_error: bool) -> Backend:
    """`capturing` is one answer for the process, from a count."""
    open_captures: list[int] = []

    @contextlib.contextmanager
    def capture(index: int) -> Iterator[Any]:
        with backend.graphs.capture(index) as graph:
            open_captures.append(threading.get_ident())
            try:
                yield graph
            except BaseException:
                if forget_after_error:
                    open_captures.pop()
                raise
            open_captures.pop()

    def capturing() -> bool:
        return bool(open_captures) if forget_after_error else threading.get_ident() in open_captures

    return _graphs(backend, capture=capture, capturing=capturing)


capturing_for_all_threads = _mutant(
    "capturing-for-all-threads",
    "capturing-tells-the-truth",
    "`capturing` is true in every thread while one captures.",
    lambda backend: _counted(backend, forget_after_error=True),
)

capturing_after_error = _mutant(
    "capturing-after-an-error",
    "capturing-tells-the-truth",
    "`capturing` stays true when the block of a capture raised.",
    lambda backend: _counted(backend, forget_after_error=False),
)


def _swallows(backend: Backend) -> Backend:
    @contextlib.contextmanager
    def capture(index: int) -> Iterator[Any]:
        with contextlib.suppress(ArithmeticError), backend.graphs.capture(index) as graph:
            yield graph

    return _graphs(backend, capture=capture)


swallows_errors = _mutant(
    "swallows-errors",
    "capturing-tells-the-truth",
    "An error in the block of a capture ends the capture and is not raised.",
    _swallows,
)


def _leaves_device(backend: Backend) -> Backend:
    kept: list[Any] = []

    @contextlib.contextmanager
    def capture(index: int) -> Iterator[Any]:
        kept.append(backend.device.use(index))
        kept[-1].__enter__()
        with backend.graphs.capture(index) as graph:
            yield graph

    return _graphs(backend, capture=capture)


leaves_device = _mutant(
    "leaves-device",
    "capturing-tells-the-truth",
    "A capture leaves its device current.",
    _leaves_device,
)


# -- what goes wrong in a capture --------------------------------------------------------------------------------------


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

    return _graphs(backend, capture=capture)


failed_capture_replays = _mutant(
    "failed-capture-replays",
    "a-failed-capture-cannot-be-replayed",
    "After an error in its block a graph replays what was recorded before it.",
    _closed_in_order,
)

failed_capture_replays_nothing = _mutant(
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

    return _graphs(backend, capture=capture)


failed_capture_runs = _mutant(
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

    return _graphs(backend, capture=capture)


fails_for_good = _mutant(
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

    return _graphs(backend, capture=capture)


nested_joins_outer = _mutant(
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

    return _graphs(backend, capture=capture, capturing=lambda: getattr(mine, "depth", 0) > 0)


nested_is_stuck = _mutant(
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

    return _graphs(backend, capture=capture)


reads_old_values = _mutant(
    "reads-old-values",
    "reads-in-a-capture-are-refused",
    "A value that is read inside a capture is the one from before it.",
    lambda backend: _reads(backend, torch.Tensor.item, torch.Tensor.tolist),
)

copies_old_values = _mutant(
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


synchronize_passes = _mutant(
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


stream_wait_passes = _mutant(
    "stream-wait-passes",
    "reads-in-a-capture-are-refused",
    "Waiting for the captured stream returns at once, although nothing has run.",
    _stream_wait_passes,
)


# -- allocations -------------------------------------------------------------------------------------------------------


class _Allocates(TorchFunctionMode):
    """Inside a capture: products get memory from beside it, and are recorded into that memory."""

    def __init__(self, backend: Backend, index: int, kept: list[torch.Tensor]) -> None:
        super().__init__()
        self.backend, self.index, self.kept = backend, index, kept

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (torch.Tensor.mul, torch.Tensor.__mul__, torch.mul) or kwargs:
            return func(*args, **(kwargs or {}))
        made = aside(self.backend, self.index, lambda: torch.zeros_like(args[0]))
        self.kept.append(made)
        return torch.mul(*args, out=made)


class _GivesOut(TorchFunctionMode):
    """New memory of a size comes from `free` where there is some."""

    def __init__(self, free: list[torch.Tensor]) -> None:
        super().__init__()
        self.free = free

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.full and self.free and tuple(args[0]) == tuple(self.free[-1].shape):
            return self.free.pop().fill_(args[1])
        return func(*args, **(kwargs or {}))


def _allocating(backend: Backend, shared: bool) -> Backend:
    """Captures that allocate. `shared`: what a block has freed goes to the next who asks."""
    entered = threading.local()
    kept: list[torch.Tensor] = []

    @contextlib.contextmanager
    def capture(index: int) -> Iterator[Any]:
        with backend.graphs.capture(index) as graph, _Allocates(backend, index, kept):
            yield graph
        if shared and kept and not hasattr(entered, "mode"):
            # Allocation is torch's, not a part's. The mode is per thread, and a law has one of its own.
            entered.mode = _GivesOut(kept)
            entered.mode.__enter__()

    return _graphs(backend, capture=capture)


gives_out_memory = _mutant(
    "gives-out-memory-of-graphs",
    "allocations-in-a-capture-harm-nobody",
    "Memory that was allocated and freed inside a capture goes to the next who asks, and each replay writes to it.",
    lambda backend: _allocating(backend, shared=True),
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

    return _graphs(backend, capture=capture)


allocations_run_eagerly = _mutant(
    "allocating-operations-run-eagerly",
    "allocations-in-a-capture-harm-nobody",
    "An operation that allocates inside a capture runs at once, and its result is frozen into the graph.",
    _allocations_aside,
)


# -- several graphs ----------------------------------------------------------------------------------------------------


def _one_graph_for(backend: Backend, slot: Callable[[int], int]) -> Backend:
    """A new graph takes the place of the one in its slot."""
    latest: dict[int, Any] = {}

    def change(graph: Any, index: int) -> Any:
        latest[slot(index)] = graph
        return Changed(graph, replay=lambda: latest[slot(index)].replay())

    return _new_graphs(backend, change)


one_graph_per_device = _mutant(
    "one-graph-per-device",
    "graphs-are-independent",
    "A device has one graph: a capture replaces the one before it.",
    lambda backend: _one_graph_for(backend, lambda index: index),
)


def _dies_together(backend: Backend) -> Backend:
    """All graphs share a pool, which goes with the first that is dropped."""
    dropped: list[int] = []

    def change(graph: Any, index: int) -> Any:
        made = Changed(graph, replay=lambda: None if dropped else graph.replay())
        weakref.finalize(made, dropped.append, index)
        return made

    return _new_graphs(backend, change)


dies_together = _mutant(
    "dropping-one-drops-all",
    "graphs-are-independent",
    "Graphs share their memory, and it is freed with the first of them.",
    _dies_together,
)


# -- kernels of graphs -------------------------------------------------------------------------------------------------


class _Forgets(Plain):
    """Holds kernels weakly: one that its owner has dropped is unloaded, and where a graph holds it nothing runs."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self._weak: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    def _held(self, kernel: Any) -> Any:
        if not inspect.isfunction(kernel):
            return kernel
        if kernel not in self._weak:
            self._weak[kernel] = _weakly(kernel)
        return self._weak[kernel]

    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        self.backend.launcher.launch(self._held(kernel), *args, **kwargs)

    def preload(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        self.backend.launcher.preload(self._held(kernel), *args, **kwargs)


def _weakly(kernel: Any) -> Any:
    found = weakref.ref(kernel)

    def start(*args: Any, **kwargs: Any) -> None:
        held = found()
        if held is not None:
            held(*args, **kwargs)

    # Not functools.wraps, which would hold the kernel.
    start.__name__ = kernel.__name__
    start.__signature__ = inspect.signature(kernel)  # type: ignore[attr-defined]
    setattr(start, _ATTRIBUTE, facts_of(kernel))
    return start


kernels_go_with_owner = _mutant(
    "kernels-go-with-their-owner",
    "kernels-stay-loaded",
    "A kernel is unloaded when nobody but a graph needs it, and the replay leaves it out.",
    lambda backend: replace(backend, launcher=_Forgets(backend)),
)


class _Bounded(Plain):
    """Keeps the latest `most` kernels loaded and unloads the oldest, also from under a graph."""

    most = 16

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self._latest: dict[Any, Any] = {}

    def _resident(self, kernel: Any) -> Any:
        if not inspect.isfunction(kernel):
            return kernel
        if kernel not in self._latest:
            self._latest[kernel] = _while_loaded(kernel, self._latest)
            if len(self._latest) > self.most:
                del self._latest[next(iter(self._latest))]
        return self._latest[kernel]

    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        self.backend.launcher.launch(self._resident(kernel), *args, **kwargs)

    def preload(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        self.backend.launcher.preload(self._resident(kernel), *args, **kwargs)


def _while_loaded(kernel: Any, loaded: dict[Any, Any]) -> Any:
    @functools.wraps(kernel)
    def start(*args: Any, **kwargs: Any) -> None:
        if kernel not in loaded:
            raise RuntimeError("invalid resource handle")
        kernel(*args, **kwargs)

    return start


kernels_give_way = _mutant(
    "kernels-give-way-to-others",
    "kernels-stay-loaded",
    "Only the latest kernels stay loaded; one that a graph needs is unloaded when enough others came after it.",
    lambda backend: replace(backend, launcher=_Bounded(backend)),
)


# -- different and right -----------------------------------------------------------------------------------------------


def _waits(backend: Backend) -> Backend:
    def replay(graph: Any, index: int) -> None:
        backend.device.synchronize(index)
        graph.replay()
        backend.device.synchronize(index)

    return _replaying(backend, replay)


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

    return _graphs(backend, capture=capture)


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
    lambda backend: _allocating(backend, shared=False),
)


def _refuses_at_the_call(backend: Backend) -> Backend:
    def capture(index: int) -> Any:
        reason = "a capture is under way" if backend.graphs.capturing() else backend.graphs.supported(index)
        if reason is not None:
            raise CaptureRefused(f"no graph can be captured on device {index}: {reason}")
        return backend.graphs.capture(index)

    return _graphs(backend, capture=capture)


refuses_at_the_call = LegalVariant(
    "graphs.refuses-at-the-call",
    "graphs",
    "`capture` refuses when it is called and not when its block is entered.",
    _refuses_at_the_call,
)
