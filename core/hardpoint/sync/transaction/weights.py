"""`Weights`: what weights are to the transaction: storages that updates land in, or a model behind a loader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from hardpoint.errors import SyncError
from hardpoint.sync.plan import Storages, SyncPlan
from hardpoint.sync.transaction.mode import Mode
from hardpoint.sync.transaction.staging import Staging, staging_for

if TYPE_CHECKING:
    from hardpoint.sync.stream import BoxKernels


@runtime_checkable
class Weights(Protocol):
    """Bound to one plan.

    Attributes:
        rank: of the receiver that they are on.
        nbytes: that a second copy of them takes.
    """

    @property
    def rank(self) -> int: ...

    @property
    def plan(self) -> SyncPlan: ...

    @property
    def nbytes(self) -> int: ...

    def stage(self, mode: Mode) -> Staging:
        """Where an update lies until the decision. SyncError if there is no such mode for these weights."""
        ...


@dataclass(frozen=True)
class InPlace:
    """Weights that are storages in the very layout that the plan lands in. `kernels`: see `Shadow`."""

    storages: Storages
    kernels: BoxKernels | None = None

    @property
    def rank(self) -> int:
        return self.storages.rank

    @property
    def plan(self) -> SyncPlan:
        return self.storages.plan

    @property
    def nbytes(self) -> int:
        return self.storages.nbytes

    def stage(self, mode: Mode) -> Staging:
        """See `Weights.stage`."""
        return staging_for(mode, self.storages, self.kernels)


@dataclass(frozen=True)
class Unplanned:
    """A rank that has no plan yet: the first update that it hears of brings one."""

    rank: int
    members: tuple[int, ...]


Find = Callable[[str], Weights | None]


class Binding:
    """The plan that a rank's weights are bound to at present, and how it gets another one."""

    def __init__(self, live: Storages | Weights | Unplanned, find: Find | None) -> None:
        self._live: Weights | Unplanned = InPlace(live) if isinstance(live, Storages) else live
        self._find = find
        self.rank = live.rank
        self.members = live.members if isinstance(live, Unplanned) else tuple(sorted(live.plan.shard_of))

    @property
    def weights(self) -> Weights:
        """SyncError before the first plan."""
        if isinstance(self._live, Unplanned):
            raise SyncError("no plan is known here before the first update")
        return self._live

    @property
    def plan(self) -> SyncPlan:
        """SyncError before the first plan."""
        return self.weights.plan

    def found(self, wanted: str) -> Weights:
        """Weights bound to the plan with this digest; nothing changes yet.

        Raises:
            SyncError: no such plan can be made here, or it is for other receivers.
        """
        here = "" if isinstance(self._live, Unplanned) else self._live.plan.digest
        if wanted == here:
            return self.weights
        found = None if self._find is None else self._find(wanted)
        if found is None or found.plan.digest != wanted:
            made = here if found is None else found.plan.digest
            raise SyncError(
                f"the trainer's plan is {wanted[:12]}, the one made here is {made[:12] or 'none'}: names, "
                "shapes, layouts, receivers or versions differ; plan again on both sides"
            )
        if tuple(sorted(found.plan.shard_of)) != self.members:
            raise SyncError(f"the plan {wanted[:12]} is for other receivers than ranks {list(self.members)}")
        return found

    def bind(self, found: Weights) -> None:
        """From here on these are the weights."""
        self._live = found
