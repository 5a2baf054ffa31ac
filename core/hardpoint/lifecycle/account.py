"""`Account`: what one sleep or wake cost on one rank, and the step in which it failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hardpoint.lifecycle.states import Action

_MEMORY = frozenset({Action.SAVE, Action.UNMAP, Action.MAP, Action.RESTORE, Action.CHECK_DIGEST, Action.DISCARD})
_ENGINE = frozenset({Action.CLOSE_ADMISSION, Action.DRAIN, Action.RESUME, Action.OPEN_ADMISSION})


@dataclass(frozen=True)
class Account:
    """The last operation of one rank.

    Attributes:
        kind: ``"sleep"``, ``"wake"`` or ``"commit"``; "" before the first.
        op_id: its number.
        total: seconds from the call to its end.
        steps: seconds by name of the `Action`; a vote's are from the ballot to the verdict, so they hold what this
            rank waited for slower ones.
        nbytes: bytes that lost their memory (a sleep) or have it again (a wake), 0 if the operation was given up.
        failed: the step that failed on this rank: name of an `Action`, ``"ask"`` for a call that this rank could not
            take part in, "" where nothing failed here.
    """

    kind: str = ""
    op_id: int = 0
    total: float = 0.0
    steps: Mapping[str, float] = field(default_factory=dict)
    nbytes: int = 0
    failed: str = ""

    @property
    def memory(self) -> float:
        """Seconds in which contents and memory moved, digests included."""
        return self._of(_MEMORY)

    @property
    def engine(self) -> float:
        """Seconds in which the engine was drained, or resumed."""
        return self._of(_ENGINE)

    @property
    def protocol(self) -> float:
        """All other seconds: votes, synchronising, threads of the steps. Lowest on the rank that others wait for."""
        return max(self.total - self.memory - self.engine, 0.0)

    def _of(self, actions: frozenset[Action]) -> float:
        return sum(self.steps.get(action.value, 0.0) for action in actions)
