"""Tensors that a trainer gathers itself, one runtime parameter after the other, as a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from hardpoint.errors import SyncError
from hardpoint.sync import TensorSpec
from hardpoint_trainers.names import plain_name
from hardpoint_trainers.sharded.conversion import Unit, convert, units_of
from hardpoint_trainers.sharded.sources import sources_of

if TYPE_CHECKING:
    import torch


class Gathered:
    """`pairs` of runtime names and whole tensors, in the checkpoint's names and shapes, in the order they come.

    Holds what it gets until a conversion has all its parts, mostly one tensor. Buffers are not part of it: trainers
    walk ``named_parameters``.

    Args:
        model: as for `CheckpointStream`.
        pairs: every parameter of the model once, in the order of ``model.named_parameters()``; read once.

    Raises:
        SyncError: while iterating, for a name that the model does not have, or one that comes twice or never.
    """

    def __init__(self, model: torch.nn.Module, pairs: Iterable[tuple[str, torch.Tensor]]) -> None:
        self._model = model
        self._pairs = pairs
        given = {plain_name(name) for name, _ in model.named_parameters()}
        sources = {name: source for name, source in sources_of(model).items() if name in given}
        self._units = units_of(model, sources)
        self.specs: tuple[TensorSpec, ...] = tuple(
            TensorSpec.of(name, tensor) for unit in self._units for name, tensor in unit.makes.items()
        )

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        unit_of = {name: unit for unit in self._units for name in unit.sources}
        waiting = list(self._units)
        held: dict[str, torch.Tensor] = {}
        for name, tensor in self._pairs:
            plain = plain_name(name)
            if plain not in unit_of:
                raise SyncError(f"The trainer hands over {name}, which its model does not have, or has a second time.")
            del unit_of[plain]
            held[plain] = tensor
            del tensor
            while waiting and all(part in held for part in waiting[0].sources):
                yield from self._converted(waiting.pop(0), held)
        if waiting:
            missing = [name for unit in waiting for name in unit.sources if name not in held]
            raise SyncError(f"The trainer ended without handing over {', '.join(missing[:5])}.")

    def _converted(self, unit: Unit, held: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        made = convert(self._model, unit, {name: held.pop(name) for name in unit.sources})
        for name in unit.makes:
            yield name, made.pop(name)
