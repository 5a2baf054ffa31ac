"""What `publish` is given, told apart: tensors that are all there, or that are made one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hardpoint.errors import SyncError
from hardpoint.sync import TensorSpec

if TYPE_CHECKING:
    import torch

    Pairs = Iterable[tuple[str, torch.Tensor]]
    NamedTensors = Mapping[str, torch.Tensor] | Pairs | Callable[[], Pairs]


@dataclass(frozen=True)
class Update:
    """The tensors of one update.

    Attributes:
        specs: names, shapes and dtypes, in order.
        pairs: to be walked once, in that order.
        named: all of them, if they are all there; None if each is made when its turn comes.
    """

    specs: tuple[TensorSpec, ...]
    pairs: Pairs
    named: Mapping[str, torch.Tensor] | None = None


def update_of(named_tensors: NamedTensors, manifest: Iterable[TensorSpec] | None = None) -> Update:
    """Names, shapes and dtypes come first, since an update is agreed on before its first byte moves.

    Args:
        named_tensors: a mapping, or a list or tuple of pairs: all tensors are there. Any other iterable of pairs: each
            tensor is made when its turn comes, and `manifest` says what will come, or the iterable's own ``specs``. A
            callable that returns such an iterable: without a manifest it is called twice, once to look.

    Raises:
        SyncError: a name is given twice, or what will come is not known.
    """
    specs = manifest if manifest is not None else getattr(named_tensors, "specs", None)
    if isinstance(named_tensors, Mapping) or (specs is None and isinstance(named_tensors, (list, tuple))):
        named = dict(_unique(named_tensors))
        found = _specs(named.items())
        _as_announced(found, specs)
        return Update(found, named.items(), named)
    if callable(named_tensors) and not isinstance(named_tensors, Iterator):
        found = tuple(specs) if specs is not None else _specs(_unique(named_tensors()))
        return Update(found, named_tensors())
    if specs is None:
        raise SyncError(
            f"A {type(named_tensors).__name__} makes its tensors as it is walked, and an update is agreed on before "
            "its first byte moves: give publish manifest=[TensorSpec(name, shape, dtype), ...] in its order, or a "
            "callable that returns it anew (it is walked twice then), or a mapping that holds all tensors."
        )
    return Update(tuple(specs), named_tensors)


def _as_announced(found: tuple[TensorSpec, ...], announced: Iterable[TensorSpec] | None) -> None:
    if announced is None:
        return
    given, wanted = {spec.name: spec for spec in found}, {spec.name: spec for spec in announced}
    for name in (*given, *wanted):
        if name not in wanted:
            raise SyncError(f"Tensor {name} is given but not in the manifest.")
        if name not in given:
            raise SyncError(f"Tensor {wanted[name]} is in the manifest but not given.")
        if given[name] != wanted[name]:
            raise SyncError(f"Tensor {name} is announced as {wanted[name]}, found {given[name]}.")


def _specs(pairs: Pairs) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec.of(name, tensor) for name, tensor in pairs)


def _unique(named_tensors: Mapping[str, torch.Tensor] | Pairs) -> Iterator[tuple[str, torch.Tensor]]:
    pairs = named_tensors.items() if isinstance(named_tensors, Mapping) else named_tensors
    seen = set()
    for name, tensor in pairs:
        if name in seen:
            raise SyncError(f"Tensor {name} is given twice in one update.")
        seen.add(name)
        yield name, tensor
