"""Faults in what is said during a capture."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from hardpoint.backend import Backend
from hardpoint.conformance.mutants.graphs._plant import (
    plant,
    with_graphs,
)

never_capturing = plant(
    "never-capturing",
    "capturing-tells-the-truth",
    "`capturing` is always false.",
    lambda backend: with_graphs(backend, capturing=lambda: False),
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

    return with_graphs(backend, capture=capture, capturing=capturing)


capturing_for_all_threads = plant(
    "capturing-for-all-threads",
    "capturing-tells-the-truth",
    "`capturing` is true in every thread while one captures.",
    lambda backend: _counted(backend, forget_after_error=True),
)

capturing_after_error = plant(
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

    return with_graphs(backend, capture=capture)


swallows_errors = plant(
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

    return with_graphs(backend, capture=capture)


leaves_device = plant(
    "leaves-device",
    "capturing-tells-the-truth",
    "A capture leaves its device current.",
    _leaves_device,
)
