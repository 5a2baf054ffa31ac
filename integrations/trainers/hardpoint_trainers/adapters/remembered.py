"""Tensors that a trainer hands over without saying beforehand what will come."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from hardpoint.errors import SyncError
from hardpoint.sync import TensorSpec

if TYPE_CHECKING:
    import torch

_logger = logging.getLogger("hardpoint.trainers")


class Remembered:
    """Specs of the first round, which is kept in host memory to learn them; later rounds stream and must be the same.

    An update has to be known whole before its first byte moves. A generator of whole tensors says what it has only by
    giving it, so the first round is read to its end. Later rounds hold one tensor at a time, and one that differs from
    the first is refused by name while it streams.
    """

    def __init__(self) -> None:
        self.specs: tuple[TensorSpec, ...] | None = None

    def round(self, pairs: Iterable[tuple[str, torch.Tensor]]) -> tuple[tuple[TensorSpec, ...], Iterator[Pair]]:
        """The manifest of one round and its tensors.

        Raises:
            SyncError: a name comes twice in the first round.
        """
        if self.specs is not None:
            return self.specs, iter(pairs)
        kept: dict[str, torch.Tensor] = {}
        for name, tensor in pairs:
            if name in kept:
                raise SyncError(f"Tensor {name} is given twice in one update.")
            kept[name] = tensor.detach().to("cpu", copy=True)
        specs = tuple(TensorSpec.of(name, tensor) for name, tensor in kept.items())
        _logger.info(
            "The first update is read into host memory to learn what comes: %d tensors, %d bytes; later ones stream.",
            len(specs),
            sum(spec.nbytes for spec in specs),
        )
        self.specs = specs
        return specs, _emptied(kept)


Pair = tuple[str, "torch.Tensor"]


def _emptied(kept: dict[str, torch.Tensor]) -> Iterator[Pair]:
    while kept:
        name = next(iter(kept))
        yield name, kept.pop(name)
