"""Carries a plan out on tensors: pack a bucket at the trainer, land it at a receiver, read it back for a digest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from hardpoint.errors import SyncError
from hardpoint.moe.views import words
from hardpoint.sync.dtypes import torch_dtype
from hardpoint.sync.manifest import TensorSpec
from hardpoint.sync.plan.destination import Destination
from hardpoint.sync.plan.names import plain_name
from hardpoint.sync.plan.packing import Bucket, Landing, Move
from hardpoint.sync.plan.plan import SyncPlan


class Sources:
    """A trainer's tensors as a plan knows them.

    Raises:
        SyncError: a tensor is missing, or is not what was offered.
    """

    def __init__(self, plan: SyncPlan, named_tensors: Mapping[str, torch.Tensor]) -> None:
        plain = {plain_name(name): tensor for name, tensor in named_tensors.items()}
        self._plan = plan
        self._words: list[torch.Tensor] = []
        for spec in plan.offer.tensors:
            tensor = plain.get(spec.name)
            if tensor is None:
                raise SyncError(f"Tensor {spec} is in the plan but not given.")
            found = TensorSpec.of(spec.name, tensor)
            if found != spec:
                raise SyncError(f"Tensor {spec} is in the plan, found {found}; plan again for what is sent now.")
            self._words.append(words(tensor.detach().contiguous()))

    def view(self, move: Move, box: int) -> torch.Tensor:
        """The values of box number `box` of `move` as integer words, in the order they are packed."""
        of = self._words[move.sources[box]]
        return of.as_strided(move.sizes, move.strides, of.storage_offset() + move.offset)

    def pack(self, bucket: Bucket, buffer: torch.Tensor) -> None:
        """Write the payload of `bucket` into the flat uint8 `buffer`."""
        for at, move in bucket.pieces:
            for box in range(len(move.sources)):
                _slot(buffer, at, move, box).copy_(self.view(move, box))


class Storages:
    """One receiver's parameters as its plan knows them: live ones, or a second copy of them.

    Raises:
        SyncError: a parameter is missing, or is not what the receiver declared.
    """

    def __init__(self, plan: SyncPlan, rank: int, parameters: Mapping[str, torch.Tensor]) -> None:
        self.plan, self.rank = plan, rank
        self.destinations = plan.destinations_for(rank)
        self.tensors = [_checked(of, parameters, rank) for of in self.destinations]
        self._words = [words(tensor.detach()) for tensor in self.tensors]

    @property
    def named(self) -> dict[str, torch.Tensor]:
        """Tensor of each parameter."""
        return {of.parameter: tensor for of, tensor in zip(self.destinations, self.tensors, strict=True)}

    def like(self) -> Storages:
        """A second set of storages, uninitialised."""
        return type(self)(self.plan, self.rank, {name: torch.empty_like(of) for name, of in self.named.items()})

    def view(self, move: Move, landing: Landing, box: int) -> torch.Tensor:
        """Where box number `box` of `move` lands, as integer words in packed order: read, it is the inverse layout."""
        of = self._words[landing.parameter]
        return of.as_strided(move.sizes, landing.strides, of.storage_offset() + landing.offset + box * landing.step)

    def land(self, bucket: Bucket, buffer: torch.Tensor) -> None:
        """Copy the payload of `bucket` to where it belongs."""
        for at, move, landing in self.plan.landings(bucket, self.rank):
            for box in range(len(move.sources)):
                self.view(move, landing, box).copy_(_slot(buffer, at, move, box))

    def views(self, bucket: Bucket) -> Iterator[torch.Tensor]:
        """All that `bucket` overwrites, as views on the storages."""
        for _, move, landing in self.plan.landings(bucket, self.rank):
            for box in range(len(move.sources)):
                yield self.view(move, landing, box)

    def repeats(self, bucket: Bucket) -> int:
        """How many times at most a box of `bucket` lands here: 2 where tied weights have two storages."""
        shard = self.plan.shard_of[self.rank]
        return max(sum(landing.shard == shard for landing in move.landings) for _, move in bucket.pieces)

    def collect(self, bucket: Bucket, buffer: torch.Tensor, repeat: int = 0) -> None:
        """The inverse of `land`: read what the storages hold into the packed order, of the landing number `repeat`."""
        shard = self.plan.shard_of[self.rank]
        for at, move in bucket.pieces:
            mine = [landing for landing in move.landings if landing.shard == shard]
            landing = mine[min(repeat, len(mine) - 1)]
            for box in range(len(move.sources)):
                _slot(buffer, at, move, box).copy_(self.view(move, landing, box))

    @property
    def nbytes(self) -> int:
        """Of all parameters."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def device(self) -> torch.device:
        return self.tensors[0].device if self.tensors else torch.device("cpu")

    def clear_padding(self) -> None:
        """Write zero into all padding."""
        for number, destination in enumerate(self.destinations):
            of = self._words[number]
            for lows, sizes in destination.zeros:
                start = sum(low * stride for low, stride in zip(lows, destination.strides, strict=True))
                of.as_strided(sizes, destination.strides, of.storage_offset() + start).zero_()

    def copy_from(self, other: Storages) -> None:
        """Take all bits of another set of the same storages, in place."""
        for ours, theirs in zip(self._words, other._words, strict=True):
            ours.copy_(theirs)


def new_buffer(bucket: Bucket, device: torch.device | str = "cpu") -> torch.Tensor:
    """A flat uint8 buffer for `bucket`; gaps between pieces are zero, so that equal payloads are equal messages."""
    return torch.zeros(bucket.nbytes, dtype=torch.uint8, device=device)


def _slot(buffer: torch.Tensor, at: int, move: Move, box: int) -> torch.Tensor:
    start = at + box * move.pitch
    raw = buffer[start : start + move.box_bytes]
    return raw.view(_WORD[move.itemsize]).view(move.sizes)


_WORD = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _checked(destination: Destination, parameters: Mapping[str, torch.Tensor], rank: int) -> torch.Tensor:
    name = destination.parameter
    tensor = parameters.get(name)
    if tensor is None:
        raise SyncError(f"Parameter {name} on rank {rank} is declared in the plan and does not exist.")
    wanted = torch_dtype(destination.dtype)
    if tuple(tensor.shape) != destination.shape or tensor.dtype != wanted or not tensor.is_contiguous():
        raise SyncError(
            f"Parameter {name} on rank {rank} is declared contiguous, {destination.dtype}{list(destination.shape)}; "
            f"found {tensor.dtype}{list(tensor.shape)} with strides {list(tensor.stride())}. Plan again for the layout "
            f"that it has now."
        )
    return tensor
