"""Backends without graphs that do not say so."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from hardpoint.backend import Backend
from hardpoint.conformance.mutants.graphs._plant import (
    Nothing,
    plant,
    with_graphs,
)
from hardpoint.errors import CaptureRefused
from hardpoint.graphs import NoGraphs


class _YieldsNothing(NoGraphs):
    @contextlib.contextmanager
    def capture(self, device_index: int) -> Iterator[Any]:
        yield Nothing()


class _RefusesAtTheEnd(NoGraphs):
    @contextlib.contextmanager
    def capture(self, device_index: int) -> Iterator[Any]:
        yield Nothing()
        super().capture(device_index)


class _NoReason(NoGraphs):
    def supported(self, device_index: int, model: str = "", dtype: str = "") -> str | None:
        return None


class _OtherWords(NoGraphs):
    def capture(self, device_index: int) -> Any:
        raise CaptureRefused("not implemented")


def _without(backend: Backend, graphs: Any) -> Backend:
    return replace(backend, graphs=graphs, capabilities=replace(backend.capabilities, graph=False))


unsupported_runs_eagerly = plant(
    "unsupported-runs-eagerly",
    "unsupported-is-refused",
    "Where graphs are not supported the block of a capture runs eagerly, without a word, and a replay does nothing.",
    lambda backend: _without(backend, _YieldsNothing()),
)

unsupported_refused_late = plant(
    "unsupported-is-refused-late",
    "unsupported-is-refused",
    "Where graphs are not supported the refusal comes when the block has run.",
    lambda backend: _without(backend, _RefusesAtTheEnd()),
)

unsupported_without_reason = plant(
    "unsupported-without-reason",
    "unsupported-is-refused",
    "A backend that does not declare graphs says that they are supported.",
    lambda backend: _without(backend, _NoReason()),
)

unsupported_with_other_words = plant(
    "unsupported-refused-without-reason",
    "unsupported-is-refused",
    "The refusal does not give the reason that `supported` gives.",
    lambda backend: _without(backend, _OtherWords()),
)

claimed_and_unsupported = plant(
    "claimed-and-unsupported",
    "unsupported-is-refused",
    "Graphs are declared, and refused on the last device.",
    lambda backend: with_graphs(
        backend,
        supported=lambda index, model="", dtype="": "no graphs here" if index == backend.device.count() - 1 else None,
    ),
)

missing_device_means_zero = plant(
    "missing-device-means-zero",
    "unsupported-is-refused",
    "A capture on a device that does not exist is one on device 0.",
    lambda backend: with_graphs(
        backend, capture=lambda index: backend.graphs.capture(index if index < backend.device.count() else 0)
    ),
)
