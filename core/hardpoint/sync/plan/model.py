"""`ModelSpec`: the rules of a whole model, and what each receiver holds by them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from hardpoint.errors import SyncError
from hardpoint.sync.plan.coordinates import Coordinates, pipeline_layers
from hardpoint.sync.plan.destination import Destination
from hardpoint.sync.plan.rule import Rule


@dataclass(frozen=True)
class ModelSpec:
    """A model as all its receivers together hold it.

    Attributes:
        rules: one for each parameter (or pair of expert parameters), in the order of the model.
        num_layers: that pipeline stages share out.
        ignored: names that may be sent and have no place, each with the reason. Everything else that is sent and has
            no place is refused.
        partition: layers of each pipeline stage; None for vLLM's rule.
    """

    rules: tuple[Rule, ...]
    num_layers: int
    ignored: tuple[tuple[str, str], ...] = ()
    partition: tuple[int, ...] | None = None

    def destinations(self, at: Coordinates) -> tuple[Destination, ...]:
        """What the receiver at `at` holds. The same object for the same shard, so that replicas are planned once.

        Raises:
            SyncError: a rule cannot be cut for these coordinates, or names a parameter twice.
        """
        shard = at.shard
        if shard not in self._cache:
            layers = self._layers(shard)
            dense = replace(shard, ep_rank=0, ep_size=1)
            found = tuple(
                destination
                for number, rule in enumerate(self.rules)
                if _is_here(rule, layers, shard)
                for destination in self._made_by(number, rule, shard if rule.by_experts else dense)
            )
            seen: set[str] = set()
            for destination in found:
                if destination.parameter in seen:
                    raise SyncError(f"Two rules give parameter {destination.parameter} on a receiver at {at}.")
                seen.add(destination.parameter)
            self._cache[shard] = found
        return self._cache[shard]

    def receivers(self, coordinates: Mapping[int, Coordinates] | Iterable[Coordinates]) -> tuple[Receiver, ...]:
        """Receivers by rank of the sync group; an iterable is numbered from 1, since rank 0 is the trainer."""
        pairs = coordinates.items() if isinstance(coordinates, Mapping) else enumerate(coordinates, 1)
        return tuple(Receiver(rank, self.destinations(at), str(at)) for rank, at in pairs)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over everything that decides what receivers hold."""
        return hashlib.sha256(repr((self.rules, self.num_layers, self.ignored, self.partition)).encode()).hexdigest()

    def _made_by(self, number: int, rule: Rule, at: Coordinates) -> tuple[Destination, ...]:
        """The same objects for all ranks that cannot differ in them, so that these are checked once."""
        made = self._made.get((number, at))
        if made is None:
            made = self._made.setdefault((number, at), tuple(rule.destinations(at)))
        return made

    @cached_property
    def _made(self) -> dict[tuple[int, Coordinates], tuple[Destination, ...]]:
        return {}

    @cached_property
    def _cache(self) -> dict[Coordinates, tuple[Destination, ...]]:
        return {}

    def _layers(self, at: Coordinates) -> range:
        if self.partition is None:
            return pipeline_layers(self.num_layers, at.pp_rank, at.pp_size)
        if len(self.partition) != at.pp_size or sum(self.partition) != self.num_layers:
            raise SyncError(
                f"The partition {self.partition} does not share {self.num_layers} layers out to {at.pp_size} stages."
            )
        first = sum(self.partition[: at.pp_rank])
        return range(first, first + self.partition[at.pp_rank])


@dataclass(frozen=True)
class Receiver:
    """One rank that takes weights, with all that it declares. `at` is for people.

    Receivers with equal shards should share one `destinations` object: they are then planned once.
    """

    rank: int
    destinations: tuple[Destination, ...]
    at: str = ""


def _is_here(rule: Rule, layers: range, at: Coordinates) -> bool:
    if isinstance(rule.place, int):
        return rule.place in layers
    if rule.place == "first":
        return at.pp_rank == 0
    if rule.place == "last":
        return at.pp_rank == at.pp_size - 1
    return True
