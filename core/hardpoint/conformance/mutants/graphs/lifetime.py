"""Several graphs that mix, and kernels that do not stay."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hardpoint.backend import Backend
from hardpoint.conformance.mutants._launch import Plain
from hardpoint.conformance.mutants._proxy import Changed
from hardpoint.conformance.mutants.graphs._plant import (
    plant,
    with_new_graphs,
)
from hardpoint.launcher.python_kernel import _ATTRIBUTE, facts_of

# -- several graphs ------------------------------------------------------------------------------------------------


def _one_graph_for(backend: Backend, slot: Callable[[int], int]) -> Backend:
    """A new graph takes the place of the one in its slot."""
    latest: dict[int, Any] = {}

    def change(graph: Any, index: int) -> Any:
        latest[slot(index)] = graph
        return Changed(graph, replay=lambda: latest[slot(index)].replay())

    return with_new_graphs(backend, change)


one_graph_per_device = plant(
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

    return with_new_graphs(backend, change)


dies_together = plant(
    "dropping-one-drops-all",
    "graphs-are-independent",
    "Graphs share their memory, and it is freed with the first of them.",
    _dies_together,
)


# -- kernels of graphs ---------------------------------------------------------------------------------------------


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


kernels_go_with_owner = plant(
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


kernels_give_way = plant(
    "kernels-give-way-to-others",
    "kernels-stay-loaded",
    "Only the latest kernels stay loaded; one that a graph needs is unloaded when enough others came after it.",
    lambda backend: replace(backend, launcher=_Bounded(backend)),
)
