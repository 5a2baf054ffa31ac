"""Change the parts that a lifecycle is given, its table or its methods; and the memory map of a backend."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hardpoint.backend import Backend
from hardpoint.communicator.protocol import Verdict
from hardpoint.conformance.mutants._proxy import Changed
from hardpoint.lifecycle import Action, Lifecycle, LifecycleParts, State, transition
from hardpoint.lifecycle.states import Event
from hardpoint.lifecycle.table import Step


def memory(backend: Backend, **changes: Any) -> Backend:
    """`backend` with some methods of its memory map changed."""
    changed: Any = Changed(backend.memory_map, **changes)
    return replace(backend, memory_map=changed)


def parts(backend: Backend, change: Callable[[LifecycleParts], LifecycleParts]) -> Backend:
    """`backend` whose lifecycles are made of changed parts."""
    return replace(backend, lifecycle=lambda given: backend.lifecycle(change(given)))


def memory_of_lifecycle(backend: Backend, make: Callable[[Any], dict[str, Any]]) -> Backend:
    """`backend` whose lifecycles see a changed memory map; `make` gives its methods for the one that was handed in."""

    def change(given: LifecycleParts) -> LifecycleParts:
        changed: Any = Changed(given.memory, **make(given.memory))
        return replace(given, memory=changed)

    return parts(backend, change)


def voter(backend: Backend, vote: Callable[..., Verdict]) -> Backend:
    """`backend` whose lifecycles vote by ``vote(voter, ok, subject, reason=..., digest=..., deadline=...)``."""

    def change(given: LifecycleParts) -> LifecycleParts:
        def call(ok: bool, subject: str, **more: Any) -> Verdict:
            return vote(given.voter, ok, subject, **more)

        changed: Any = Changed(given.voter, vote=call)
        return replace(given, voter=changed)

    return parts(backend, change)


def table(backend: Backend, change: Callable[[State, Event, Step], Step]) -> Backend:
    """`backend` whose lifecycles follow the state table, but for what `change` makes of each step."""

    def changed(state: State, event: Event) -> Step:
        return change(state, event, transition(state, event))

    return replace(backend, lifecycle=lambda given: Lifecycle(given, changed))


def actions(backend: Backend, change: Callable[[State, tuple[Action, ...]], tuple[Action, ...]]) -> Backend:
    """`backend` whose lifecycles carry out other actions than the table says, in the same states."""
    return table(backend, lambda before, event, step: (step[0], change(step[0], step[1])))


def methods(backend: Backend, **changes: Any) -> Backend:
    """`backend` whose lifecycles have other methods; each is called with the lifecycle and its own arguments."""

    class Other(Lifecycle):
        pass

    for name, change in changes.items():
        setattr(Other, name, change)
    return replace(backend, lifecycle=Other)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Notes every tensor that an operation makes on a device of one type."""

    def __init__(self, device_type: str, seen: list[weakref.ref[torch.Tensor]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device_type, self._seen = device_type, seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.device.type == self._device_type:
            self._seen.append(weakref.ref(result))
        return result


class Watched:
    """A memory map's pool that remembers, by weak references, which tensors were allocated under which tag."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._seen: dict[str, list[weakref.ref[torch.Tensor]]] = {}

    @contextmanager
    def pool(self, tag: str, device_index: int = 0) -> Iterator[None]:
        seen = self._seen.setdefault(tag, [])
        with self._backend.memory_map.pool(tag, device_index), _Watch(self._backend.device.type, seen):
            yield

    def tensors(self, tags: Sequence[str]) -> list[torch.Tensor]:
        """Those that live."""
        found = (reference() for tag in tags for reference in self._seen.get(tag, []))
        return [tensor for tensor in found if tensor is not None]

    def all(self) -> list[torch.Tensor]:
        return self.tensors(list(self._seen))
