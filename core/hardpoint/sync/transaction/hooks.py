"""`EngineHooks`: what an engine lets the transaction do with it, on one rank."""

from __future__ import annotations

from typing import Protocol

from hardpoint.sync.plan import Storages
from hardpoint.sync.transaction.mode import Choice, Room


class EngineHooks(Protocol):
    """Called in the order below. What raises becomes this rank's no, or its failure once the decision is made."""

    def room(self) -> Room:
        """Bytes that an update may take now."""
        ...

    def chosen(self, choice: Choice) -> None:
        """The mode was chosen; for the log."""
        ...

    def pause(self) -> None:
        """Stop between two engine steps and answer nothing. Idempotent."""
        ...

    def inspect(self, staged: Storages) -> None:
        """Look at the whole update before this rank votes on it (NaN policy, parity). SyncError to refuse it."""
        ...

    def committed(self, epoch: int) -> None:
        """The weights are the new ones: recompute derived state in place, reset caches, label outputs with `epoch`."""
        ...

    def resume(self) -> None:
        """Answer again. Idempotent."""
        ...


class NoEngine:
    """Hooks of a process that serves nobody yet: there is all the room it is given, and nothing to stop."""

    def __init__(self, room: Room | None = None) -> None:
        self._room = room or Room(1 << 62, 1 << 62)

    def room(self) -> Room:
        return self._room

    def chosen(self, choice: Choice) -> None:
        pass

    def pause(self) -> None:
        pass

    def inspect(self, staged: Storages) -> None:
        pass

    def committed(self, epoch: int) -> None:
        pass

    def resume(self) -> None:
        pass
