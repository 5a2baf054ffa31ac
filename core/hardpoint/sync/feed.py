"""Takes tensors from the trainer one by one, in the manifest's order, and refuses any that is not as announced."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch

from hardpoint.errors import SyncError
from hardpoint.sync.digest import byte_view, tensor_digest
from hardpoint.sync.manifest import Manifest, TensorSpec

NamedTensors = Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]]


class Feed:
    """Holds one tensor at a time, so a generator that gathers shards on demand needs memory for one.

    Raises (from any method):
        SyncError: a tensor is missing, extra, out of order, or has another shape or dtype than its manifest entry.
    """

    def __init__(self, manifest: Manifest, named_tensors: NamedTensors) -> None:
        self._specs = manifest.tensors
        self._pairs = _in_order(manifest, named_tensors)
        self._index = -1
        self._raw: torch.Tensor | None = None
        self.digests: list[bytes] = []

    def bytes_of(self, index: int) -> torch.Tensor:
        """Flat uint8 view of tensor number `index`, which may only grow from call to call."""
        while self._index < index:
            self._advance()
        assert self._raw is not None
        return self._raw

    def finish(self) -> None:
        """Take what is left (tensors without bytes) and make sure that nothing is over."""
        while self._index + 1 < len(self._specs):
            self._advance()
        self._raw = None
        extra = next(self._pairs, None)
        if extra is not None:
            raise SyncError(f"Tensor {extra[0]} came after the last one of the manifest, {_last(self._specs)}.")

    def _advance(self) -> None:
        self._raw = None  # before the next one is made
        spec = self._specs[self._index + 1]
        pair = next(self._pairs, None)
        if pair is None:
            raise SyncError(f"Tensor {spec} is announced in the manifest, but the tensors ended before it.")
        name, tensor = pair
        found = TensorSpec.of(name, tensor)
        if found.name != spec.name:
            raise SyncError(f"Expected tensor {spec} next, as in the manifest, found {found}.")
        if found != spec:
            raise SyncError(
                f"Tensor {name} is announced as {spec.dtype}{list(spec.shape)}, found {found.dtype}{list(found.shape)}."
            )
        with torch.no_grad():
            self.digests.append(tensor_digest(tensor))
            self._raw = byte_view(tensor.detach())
        self._index += 1


def _in_order(manifest: Manifest, named_tensors: NamedTensors) -> Iterator[tuple[str, torch.Tensor]]:
    if not isinstance(named_tensors, Mapping):
        return iter(named_tensors)
    announced = {spec.name for spec in manifest.tensors}
    for name in named_tensors:
        if name not in announced:
            raise SyncError(f"Tensor {name} is given but not in the manifest.")
    for spec in manifest.tensors:
        if spec.name not in named_tensors:
            raise SyncError(f"Tensor {spec} is in the manifest but not given.")
    return ((spec.name, named_tensors[spec.name]) for spec in manifest.tensors)


def _last(specs: tuple[TensorSpec, ...]) -> str:
    return specs[-1].name if specs else "which is empty"
