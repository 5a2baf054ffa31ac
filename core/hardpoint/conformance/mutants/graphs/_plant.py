"""How a fault is planted in graphs."""

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
from hardpoint.conformance.mutant import Mutant
from hardpoint.conformance.mutants._launch import aside
from hardpoint.conformance.mutants._proxy import Changed

Change = Callable[[Any, int], Any]


def with_graphs(backend: Backend, **changes: Any) -> Backend:
    """`backend` with some methods of its graphs changed."""
    changed: Any = Changed(backend.graphs, **changes)
    return replace(backend, graphs=changed)


def with_new_graphs(backend: Backend, change: Change) -> Backend:
    """`backend` whose new graphs pass through ``change(graph, device_index)``."""

    @contextlib.contextmanager
    def capture(index: int) -> Iterator[Any]:
        with backend.graphs.capture(index) as graph:
            yield change(graph, index)

    return with_graphs(backend, capture=capture)


def replaying(backend: Backend, replay: Callable[[Any, int], None]) -> Backend:
    """`backend` whose graphs replay by ``replay(graph, device_index)``."""
    return with_new_graphs(backend, lambda graph, index: Changed(graph, replay=functools.partial(replay, graph, index)))


def plant(name: str, law: str, statement: str, mutate: Callable[[Backend], Backend]) -> Mutant:
    return Mutant(f"graphs.{name}", f"graphs.{law}", "graphs", statement, mutate)


class Nothing:
    """A graph that is none."""

    def replay(self) -> None:
        return


class Allocates(TorchFunctionMode):
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


def allocating(backend: Backend, shared: bool) -> Backend:
    """Captures that allocate. `shared`: what a block has freed goes to the next who asks."""
    entered = threading.local()
    kept: list[torch.Tensor] = []

    @contextlib.contextmanager
    def capture(index: int) -> Iterator[Any]:
        with backend.graphs.capture(index) as graph, Allocates(backend, index, kept):
            yield graph
        if shared and kept and not hasattr(entered, "mode"):
            # Allocation is torch's, not a part's. The mode is per thread, and a law has one of its own.
            entered.mode = _GivesOut(kept)
            entered.mode.__enter__()

    return with_graphs(backend, capture=capture)
