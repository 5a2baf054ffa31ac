"""Runtime names and shapes to those of the checkpoint, a few tensors at a time.

transformers 5 holds experts fused and reverses that when it saves. Its reversal works on a whole state dict; here it is
asked on meta tensors first, so that the same answer can be had piece by piece.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from hardpoint.errors import SyncError
from hardpoint_trainers.model_kwargs import base_model
from hardpoint_trainers.sharded.sources import Source

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class Unit:
    """Runtime tensors that are converted together.

    Attributes:
        sources: their runtime names.
        makes: checkpoint name -> meta tensor, in the order they are sent.
        row_field: which number in the made names counts rows of the one source, -1 if rows cannot be converted apart.
    """

    sources: tuple[str, ...]
    makes: Mapping[str, torch.Tensor]
    row_field: int = -1


def reverted(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`tensors` under the checkpoint's names and in its shapes; as they are if the model is not transformers'."""
    base: Any = base_model(model)
    if not (hasattr(base, "config") and hasattr(base, "save_pretrained")):
        return dict(tensors)
    from transformers.core_model_loading import revert_weight_conversion

    made: dict[str, torch.Tensor] = revert_weight_conversion(base, dict(tensors))
    return made


def units_of(model: torch.nn.Module, sources: Mapping[str, Source]) -> tuple[Unit, ...]:
    """Split `sources` into the smallest units that are converted as the whole would be.

    Raises:
        SyncError: the whole gives other tensors than the units together.
    """
    like = {name: source.like for name, source in sources.items()}
    total = _forms(reverted(model, like))
    units: list[Unit] = []
    together: list[str] = []
    for name, tensor in like.items():
        alone = _try(model, {name: tensor})
        if alone is not None and alone and all(total.get(made) == _form(made_as) for made, made_as in alone.items()):
            field = _row_field(model, name, sources[name], alone)
            if field >= 0:  # rows are gathered in their order, whatever the order of the names
                alone = {made: alone[made] for made in sorted(alone, key=partial(_number, field=field))}
            units.append(Unit((name,), alone, field))
        else:
            together.append(name)
    units.extend(_joined(model, like, together))
    made = [name for unit in units for name in unit.makes]
    if len(made) != len(set(made)) or set(made) != set(total):
        odd = sorted(set(made) ^ set(total))[:5] or sorted({name for name in made if made.count(name) > 1})[:5]
        raise SyncError(
            f"The weights of {type(base_model(model)).__name__} cannot be converted to its checkpoint piece by piece: "
            f"{', '.join(odd)} depend on more than one part of the model. Publish checkpoint_tensors(model) instead, "
            "which needs all of them at once."
        )
    return tuple(units)


def convert(model: torch.nn.Module, unit: Unit, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The checkpoint tensors of `unit`, in the order of ``unit.makes``."""
    if len(unit.makes) == len(tensors) == 1:  # a renaming at most; spares the pattern matching
        (tensor,) = tensors.values()
        (made,) = unit.makes.values()
        if tensor.shape == made.shape and unit.sources[0] in unit.makes:
            return {unit.sources[0]: tensor}
    found = reverted(model, tensors)
    return {name: found[name] for name in unit.makes}


def convert_rows(
    model: torch.nn.Module, unit: Unit, tensor: torch.Tensor, start: int, stop: int
) -> dict[str, torch.Tensor]:
    """The checkpoint tensors that rows ``[start, stop)`` of the one source of `unit` make."""
    found = reverted(model, {unit.sources[0]: tensor})
    return {_renumber(name, unit.row_field, start): made for name, made in found.items()}


def order_of_rows(unit: Unit, start: int, stop: int) -> list[str]:
    """Names that `convert_rows` gives for these rows, in the order of ``unit.makes``."""
    return [name for name in unit.makes if start <= _number(name, unit.row_field) < stop]


def _joined(model: torch.nn.Module, like: Mapping[str, torch.Tensor], names: list[str]) -> list[Unit]:
    """Units of tensors that only make sense together: those of one parent module."""
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(name.rpartition(".")[0].rpartition(".")[0], []).append(name)
    units = []
    for family in families.values():
        made = _try(model, {name: like[name] for name in family})
        if made is None:
            raise SyncError(f"transformers cannot convert {', '.join(family[:5])} back to the checkpoint together.")
        units.append(Unit(tuple(family), made))
    return units


def _row_field(model: torch.nn.Module, name: str, source: Source, makes: Mapping[str, torch.Tensor]) -> int:
    """Which number of the made names is the row, found by converting two rows out of the middle."""
    count = source.like.shape[0] if source.like.dim() else 0
    if not source.sliceable or count < 2 or len(makes) % count or len(makes) < count:
        return -1
    part = _try(model, {name: source.like[:2]})
    if part is None or len(part) != len(makes) // count * 2:
        return -1
    names = list(part)
    fields = len(_NUMBER.findall(names[0]))
    for field in range(fields):
        if any(len(_NUMBER.findall(made)) != fields for made in makes):
            return -1
        moved = {
            _renumber(made, field, shift): _form(as_) for shift in range(0, count, 2) for made, as_ in part.items()
        }
        moved = {made: as_ for made, as_ in moved.items() if _number(made, field) < count}
        if moved == _forms(makes) and {_number(made, field) for made in part} == {0, 1}:
            return field
    return -1


def _try(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
    try:
        return reverted(model, tensors)
    except Exception:  # noqa: BLE001 - a conversion that lacks its other half raises whatever it likes: not alone, then
        return None


def _form(tensor: torch.Tensor) -> tuple[tuple[int, ...], torch.dtype]:
    return tuple(tensor.shape), tensor.dtype


def _forms(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {name: _form(tensor) for name, tensor in tensors.items()}


def _number(name: str, field: int) -> int:
    return int(_NUMBER.findall(name)[field])


def _renumber(name: str, field: int, shift: int) -> str:
    found = list(_NUMBER.finditer(name))[field]
    return f"{name[: found.start()]}{int(found.group()) + shift}{name[found.end() :]}"
