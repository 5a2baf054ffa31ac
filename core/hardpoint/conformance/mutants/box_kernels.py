"""Box kernels with a fault, and ones that are different and right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from hardpoint.backend import Backend
from hardpoint.conformance.mutant import LegalVariant, Mutant
from hardpoint.conformance.mutants._launch import default_stream
from hardpoint.conformance.mutants._proxy import Changed
from hardpoint.sync.stream import Launch

Pairs = Sequence[tuple[torch.Tensor, torch.Tensor]]
Boxes = Sequence[tuple[int, torch.Tensor]]


def _kernels(backend: Backend, **changes: Any) -> Backend:
    changed: Any = Changed(backend.box_kernels, **changes)
    return replace(backend, box_kernels=changed)


def _copying(backend: Backend, change: Callable[[list[Any]], list[Any]]) -> Backend:
    """`backend` that copies other pairs than it is given."""
    return _kernels(
        backend, copy=lambda pairs, *, alone=False: backend.box_kernels.copy(change(list(pairs)), alone=alone)
    )


def _digesting(backend: Backend, change: Callable[[list[Any]], list[Any]]) -> Backend:
    """`backend` that digests other boxes than it is given."""
    return _kernels(
        backend, digest=lambda boxes, sums, nbytes: backend.box_kernels.digest(change(list(boxes)), sums, nbytes)
    )


def _mutant(name: str, law: str, statement: str, mutate: Callable[[Backend], Backend]) -> Mutant:
    return Mutant(f"box_kernels.{name}", f"box_kernels.{law}", "box_kernels", statement, mutate)


_COPY, _DIGEST = "copy-moves-every-bit-and-nothing-else", "digest-is-that-of-the-packed-bucket"
_STREAM = "launches-run-in-the-callers-stream"

forgets_the_last_box = _mutant(
    "forgets-the-last-box",
    _COPY,
    "Of several boxes the last is not copied.",
    lambda backend: _copying(backend, lambda pairs: pairs[:-1] if len(pairs) > 1 else pairs),
)

forgets_the_last_row = _mutant(
    "forgets-the-last-row",
    _COPY,
    "Of a box with more than eight rows the last is not copied: a tile that is not full is left out.",
    lambda backend: _copying(
        backend, lambda pairs: [(a[:-1], b[:-1]) if a.shape[0] > 8 and a.shape[0] % 2 else (a, b) for a, b in pairs]
    ),
)


def _rows_without_gaps(box: torch.Tensor, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as if the rows of the destination had no gap between them."""
    if box.dim() != 2 or box.stride()[1] != 1 or box.stride()[0] == box.shape[1]:
        return box, source
    return box.as_strided(box.shape, (box.shape[1], 1)), source


fills_gaps = _mutant(
    "writes-rows-without-the-gaps",
    _COPY,
    "Rows of a box are written one after the other, without the gaps that the storage has between them.",
    lambda backend: _copying(backend, lambda pairs: [_rows_without_gaps(*pair) for pair in pairs]),
)


def _frozen(backend: Backend) -> Backend:
    def copy(pairs: Pairs, *, alone: bool = False) -> Launch:
        return backend.box_kernels.copy([(box, source.clone()) for box, source in pairs], alone=alone)

    return _kernels(backend, copy=copy)


copies_what_was_bound = _mutant(
    "copies-what-was-there-when-it-was-bound",
    _STREAM,
    "A launch copies the values that the sources had when the copy was bound.",
    _frozen,
)

forgets_places = _mutant(
    "digest-forgets-places",
    _DIGEST,
    "Every box is digested as if it lay at the start of its bucket.",
    lambda backend: _digesting(backend, lambda boxes: [(0, box) for _, box in boxes]),
)

digests_storage_order = _mutant(
    "digest-follows-the-storage",
    _DIGEST,
    "Values are digested in the order of the storage and not of the box.",
    lambda backend: _digesting(
        backend,
        lambda boxes: [
            (at, box.permute(sorted(range(box.dim()), key=lambda dim: -box.stride()[dim]))) for at, box in boxes
        ],
    ),
)


def _without_tail(backend: Backend) -> Backend:
    def digest(boxes: Boxes, sums: torch.Tensor, nbytes: int) -> Launch:
        launch = backend.box_kernels.digest(boxes, sums, nbytes)

        def run() -> None:
            launch()
            if nbytes % 4:
                sums[-1] = 0

        return run

    return _kernels(backend, digest=digest)


forgets_the_tail = _mutant(
    "digest-forgets-the-tail", _DIGEST, "Bytes behind the last whole word of a bucket are not digested.", _without_tail
)


def _elsewhere(backend: Backend, name: str) -> Backend:
    """`name`'s launches go to the device's default stream."""
    base = getattr(backend.box_kernels, name)

    def bind(*args: Any, **options: Any) -> Launch:
        launch = base(*args, **options)
        first = args[0][0][1]

        def run() -> None:
            with backend.device.use_stream(default_stream(backend, first.device.index or 0)):
                launch()

        return run

    return _kernels(backend, **{name: bind})


copies_in_the_default_stream = _mutant(
    "copies-in-the-default-stream",
    _STREAM,
    "A copy is launched in the device's default stream, whichever is current.",
    lambda backend: _elsewhere(backend, "copy"),
)

digests_in_the_default_stream = _mutant(
    "digests-in-the-default-stream",
    _STREAM,
    "A digest is launched in the device's default stream, whichever is current.",
    lambda backend: _elsewhere(backend, "digest"),
)


def _all(launches: Sequence[Launch]) -> None:
    for launch in launches:
        launch()


def _one_by_one(backend: Backend) -> Backend:
    def copy(pairs: Pairs, *, alone: bool = False) -> Launch:
        launches = [backend.box_kernels.copy([pair], alone=alone) for pair in reversed(pairs)]
        return lambda: _all(launches)

    def digest(boxes: Boxes, sums: torch.Tensor, nbytes: int) -> Launch:
        launches = [backend.box_kernels.digest([box], sums, nbytes) for box in reversed(boxes)]
        return lambda: _all(launches)

    return _kernels(backend, copy=copy, digest=digest)


one_by_one = LegalVariant(
    "box_kernels.one-launch-a-box",
    "box_kernels",
    "Every box has a launch of its own, the last first: boxes do not overlap, and sums do not mind the order.",
    _one_by_one,
)
