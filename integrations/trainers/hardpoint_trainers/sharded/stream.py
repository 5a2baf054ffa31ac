"""`CheckpointStream`: a model as its checkpoint, gathered group by group while it is being sent."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from hardpoint.sync import DEFAULT_BUCKET_BYTES, TensorSpec
from hardpoint_trainers.sharded.conversion import Unit, convert, convert_rows, order_of_rows, units_of
from hardpoint_trainers.sharded.sources import Source, sources_of

if TYPE_CHECKING:
    from collections.abc import Sequence


class CheckpointStream:
    """Iterate it on every rank of the trainer; each rank gets the same pairs of checkpoint name and whole tensor.

    Gathering is collective, so every rank has to iterate to the end, in step; only the publishing rank uses what it
    gets (`WeightPublisher.publish(stream, manifest=stream.specs)`). It can be iterated again for every update, as long
    as the model keeps its parameters: the plan is made once.

    Beside the trainer's own weights and the publisher's buckets it holds at most `bucket_bytes`, gathered tensors and
    their converted copies together, if whoever iterates drops each tensor before asking for the next one (the publisher
    does). A single tensor above half of that is gathered by rows where its conversion allows (fused experts under one
    `Shard(0)`); `oversize` names the others, which take their own size and up to that again, as a merged weight does.

    Args:
        model: a transformers model or any other module; plain, `fully_shard`, tensor parallel, DTensor, with PEFT
            adapters (merged aside, the trainer's weights are not touched), in any combination.
        dtype: convert floating-point tensors to it, for example from float32 master weights.
        bucket_bytes: the budget.

    Raises:
        SyncError: see `sources_of` and `units_of`.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        dtype: torch.dtype | None = None,
        *,
        bucket_bytes: int = DEFAULT_BUCKET_BYTES,
    ) -> None:
        self._model = model
        self._dtype = dtype
        self._half = bucket_bytes // 2
        sources = sources_of(model)
        self._units = units_of(model, sources)
        self._groups = _grouped(self._units, sources, self._half)
        self.specs: tuple[TensorSpec, ...] = tuple(
            TensorSpec.of(name, self._converted(tensor)) for unit in self._units for name, tensor in unit.makes.items()
        )
        """What comes, in order: the manifest of an update."""
        self.oversize: tuple[str, ...] = tuple(
            name
            for unit in self._units
            for name in unit.sources
            if unit.row_field < 0 and _nbytes(sources[name]) > self._half
        )
        """Runtime names of tensors that do not fit the budget."""

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Pairs in the order of `specs`. Weights are read anew, at their values of now."""
        with torch.no_grad():
            sources = sources_of(self._model)  # optimisers may have replaced what they point to
            for group in self._groups:
                if len(group) == 1 and group[0].row_field >= 0 and _nbytes(sources[group[0].sources[0]]) > self._half:
                    yield from self._by_rows(group[0], sources[group[0].sources[0]])
                else:
                    yield from self._at_once(group, sources)

    def _at_once(self, group: Sequence[Unit], sources: dict[str, Source]) -> Iterator[tuple[str, torch.Tensor]]:
        gathered = [{name: sources[name].whole() for name in unit.sources} for unit in group]
        for unit in group:
            made = convert(self._model, unit, gathered.pop(0))
            for name in unit.makes:
                yield name, self._converted(made.pop(name))

    def _by_rows(self, unit: Unit, source: Source) -> Iterator[tuple[str, torch.Tensor]]:
        count = source.like.shape[0]
        step = max(1, self._half * count // _nbytes(source))
        for start in range(0, count, step):
            stop = min(start + step, count)
            made = convert_rows(self._model, unit, source.rows(start, stop), start, stop)
            for name in order_of_rows(unit, start, stop):
                yield name, self._converted(made.pop(name))

    def _converted(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._dtype) if self._dtype is not None and tensor.is_floating_point() else tensor


def _grouped(units: Sequence[Unit], sources: dict[str, Source], limit: int) -> tuple[tuple[Unit, ...], ...]:
    """Neighbours whose sources together stay within `limit` bytes, or one unit alone."""
    groups: list[tuple[Unit, ...]] = []
    current: list[Unit] = []
    used = 0
    for unit in units:
        size = sum(_nbytes(sources[name]) for name in unit.sources)
        if current and used + size > limit:
            groups.append(tuple(current))
            current, used = [], 0
        current.append(unit)
        used += size
    if current:
        groups.append(tuple(current))
    return tuple(groups)


def _nbytes(source: Source) -> int:
    return math.prod(source.like.shape) * source.like.element_size()
