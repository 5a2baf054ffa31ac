"""Where a rank is, the update that it takes part in, and how one ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from hardpoint.sync.transaction.waits import ask_after, in_doubt_after, silent_for

if TYPE_CHECKING:
    from hardpoint.sync.transaction.messages import Begin
    from hardpoint.sync.transaction.staging import Staging


@dataclass(frozen=True)
class Ending:
    """How an update ended on a rank: `committed` if the new weights serve here; `reason` is a sentence."""

    session: str
    epoch: int
    committed: bool
    reason: str


class Phase(str, Enum):
    """Of one rank. ``staging`` and ``prepared`` end by themselves, within deadlines; ``failed`` by a full update."""

    SERVING = "serving"
    STAGING = "staging"
    PREPARED = "prepared"
    FAILED = "failed"


@dataclass
class OpenUpdate:
    """The update that this rank takes part in."""

    begin: Begin
    staging: Staging
    was: Phase
    seen: int
    heard: float
    landed: set[int] = field(default_factory=set)
    objection: str = ""
    cut: str = ""  # why the rest of the stream cannot come
    stored: dict[int, bytes] | None = None  # digest of each bucket as it is stored, where the stream has taken them
    prepared_at: float = 0.0
    asked: bool = False

    def due(self, phase: Phase, limit: float) -> float | None:
        """When this rank does something of itself, if nothing comes: gives up, or asks. `limit`: the deadline."""
        if phase is Phase.STAGING:
            return self.heard + silent_for(limit)
        if phase is Phase.PREPARED:
            return self.prepared_at + (in_doubt_after(limit) if self.asked else ask_after(limit))
        return None
