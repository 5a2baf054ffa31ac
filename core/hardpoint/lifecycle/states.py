"""What one rank knows about sleep and wake, and the words in which the state table speaks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Phase(str, Enum):
    """RUNNING -> DRAINING -> QUIESCED -> ASLEEP -> REMAPPED -> RUNNING; FAILED has no way out but a new engine."""

    RUNNING = "RUNNING"
    DRAINING = "DRAINING"
    QUIESCED = "QUIESCED"
    ASLEEP = "ASLEEP"
    REMAPPED = "REMAPPED"
    FAILED = "FAILED"


class Stage(str, Enum):
    """Which vote an operation is on its way to."""

    REST = "at rest"
    PREPARE = "prepare"  # nothing has changed yet
    COMMIT = "unmapped"
    ROLLBACK = "rolled back"  # a sleep that some rank could not carry out
    REMAP = "mapped"
    RETREAT = "unmapped again"  # a wake that some rank could not carry out
    CLAIM = "written"  # a weight update claims to have defined what sleep lost
    ADMIT = "admit"


class Action(str, Enum):
    """What a rank does; each is carried out by `Lifecycle` and may raise or miss its deadline."""

    CLOSE_ADMISSION = "close admission"
    DRAIN = "drain"
    SYNCHRONIZE = "synchronize"
    SAVE = "save"
    UNMAP = "unmap"
    MAP = "map"
    RESTORE = "restore"
    CHECK_DIGEST = "check digest"
    RESUME = "resume"
    DISCARD = "discard copies"
    OPEN_ADMISSION = "open admission"
    VOTE = "vote"


@dataclass(frozen=True)
class Operation:
    """One call of sleep, wake or committed; the ranks compare it in each vote.

    Attributes:
        kind: ``"sleep"``, ``"wake"`` or ``"commit"``.
        op_id: number of the call, the same on all ranks.
        tags: what it is about; None means all that `kind` can be about.
        level: of a sleep; 1 keeps the contents, 2 does not.
        volatile: tags whose contents nobody needs afterwards (KV cache): neither kept nor ever undefined.
    """

    kind: str
    op_id: int
    tags: frozenset[str]
    level: int = 1
    volatile: frozenset[str] = frozenset()

    def __str__(self) -> str:
        level = f" level {self.level}" if self.kind == "sleep" else ""
        return f"{self.kind}{level} #{self.op_id} of {', '.join(sorted(self.tags)) or 'nothing'}"


@dataclass(frozen=True)
class State:
    """Everything that decides what a rank may do next.

    Attributes:
        phase: see `Phase`.
        stage: the vote ahead, REST between operations.
        operation: what is under way, None at rest.
        touched: tags that the operation under way changes on this rank.
        undo: a rollback has something to map and restore here.
        objection: why this rank votes no, "" for yes.
        lasting: a step missed its deadline and may still be running: what it changes is not known.
        epoch: completed sleeps.
        asleep: tags without memory.
        undefined: tags with memory and without contents, since a level 2 sleep lost them.
        missing: ranks that did not come to the last vote.
        reason: why the last operation was given up, or why the state is FAILED.
    """

    phase: Phase = Phase.RUNNING
    stage: Stage = Stage.REST
    operation: Operation | None = None
    touched: frozenset[str] = frozenset()
    undo: bool = False
    objection: str = ""
    lasting: bool = False
    epoch: int = 0
    asleep: frozenset[str] = frozenset()
    undefined: frozenset[str] = frozenset()
    missing: tuple[int, ...] = ()
    reason: str = ""

    @property
    def serves(self) -> bool:
        """New requests may be admitted."""
        return self.phase is Phase.RUNNING and self.stage is Stage.REST and not self.asleep and not self.undefined

    @property
    def healthy(self) -> bool:
        """Nothing is known to be wrong: not FAILED, no step left running, and every rank came to the last vote."""
        return self.phase is not Phase.FAILED and not self.lasting and not self.missing

    @property
    def agreed(self) -> str:
        """What has to be the same on all ranks when they vote."""
        operation = self.operation
        words = [str(self.stage.value), str(self.epoch), *sorted(self.asleep), "/", *sorted(self.undefined)]
        if operation is not None:
            words = [operation.kind, str(operation.op_id), str(operation.level), *sorted(operation.tags), "/", *words]
        return " ".join(words)


@dataclass(frozen=True)
class Asked:
    """Somebody called sleep, wake or committed. `problem` is why this rank cannot take part, "" if it can."""

    operation: Operation
    problem: str = ""


@dataclass(frozen=True)
class Raised:
    """An action raised, or missed its deadline (`lasting`); the actions after it were not carried out."""

    action: Action
    reason: str
    lasting: bool = False


@dataclass(frozen=True)
class Voted:
    """A vote came to an end that every rank that returned from it knows."""

    unanimous: bool
    missing: tuple[int, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class VoteLost:
    """A vote raised: this rank has perhaps been counted, and does not know what was decided."""

    reason: str


Event = Asked | Raised | Voted | VoteLost
