"""Wrap a part and change some of its methods; the part that was given stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hardpoint.backend import Backend


class Changed:
    """A part that answers with `changes` where there is one and with the base part otherwise."""

    def __init__(self, base: Any, **changes: Any) -> None:
        self._base = base
        self.__dict__.update(changes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)


def device(backend: Backend, **changes: Any) -> Backend:
    """`backend` with some methods of its device changed."""
    changed: Any = Changed(backend.device, **changes)
    return replace(backend, device=changed)


def new_streams(backend: Backend, change: Callable[[Any], None]) -> Backend:
    """`backend` whose new streams pass through `change`; streams of others and the default streams stay as they are."""

    def stream(index: int | None = None) -> Any:
        made = backend.device.stream(index)
        change(made)
        return made

    return device(backend, stream=stream)


def new_events(backend: Backend, change: Callable[[Any], None]) -> Backend:
    """`backend` whose new events pass through `change`."""

    def event(index: int | None = None, *, timing: bool = False) -> Any:
        made = backend.device.event(index, timing=timing)
        change(made)
        return made

    return device(backend, event=event)


def communicator(backend: Backend, wrap: Callable[[Any], Any]) -> Backend:
    """`backend` whose communicators pass through `wrap`."""

    def factory(rendezvous: Any) -> Any:
        return wrap(backend.communicator(rendezvous))

    return replace(backend, communicator=factory)
