"""What trainer and receivers say to each other. Plain data; addresses are ranks, and the trainer has one of its own."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

    from hardpoint.sync.transaction.mode import Mode


class Step(str, Enum):
    """What is voted on. `BEGIN`: same plan and epoch, room for it. `VERIFY`: all of it is here and right; whoever says
    yes serves nothing until it knows the decision. `DONE`: the decision has been carried out."""

    BEGIN = "begin"
    VERIFY = "verify"
    DONE = "done"


@dataclass(frozen=True)
class Begin:
    """Opens a session, and goes down the tree. `deadline`: seconds for each vote and for each silence."""

    session: str
    coordinator: int
    epoch: int
    plan: str
    mode: Mode
    deadline: float


@dataclass(frozen=True)
class Stream:
    """Everybody said yes to `Step.BEGIN`: buckets come next, over the data plane named `lane`; down the tree.

    Not sent where buckets travel as `Data` messages of their own (`lane` was not given).
    """

    session: str
    coordinator: int
    lane: str


@dataclass(frozen=True)
class Data:
    """One bucket, to its audience."""

    session: str
    epoch: int
    bucket: int
    payload: torch.Tensor


@dataclass(frozen=True)
class Alive:
    """The stream goes on, and this rank is not in the audience of what is sent just now."""

    session: str


@dataclass(frozen=True)
class Verify:
    """All buckets are sent; down the tree. `digests`: of each bucket, as the trainer's own tensors give it."""

    session: str
    coordinator: int
    digests: tuple[bytes, ...]


@dataclass(frozen=True)
class Decide:
    """The decision, after it was recorded; down the tree, and straight to those who ask."""

    session: str
    coordinator: int
    epoch: int
    commit: bool
    reason: str


@dataclass(frozen=True)
class Ballots:
    """Votes on their way up the tree.

    Attributes:
        whole: positions whose subtree said yes, all of it.
        yes: positions that said yes themselves.
        no: rank and sentence of those that said no.
    """

    session: str
    coordinator: int
    step: Step
    whole: tuple[int, ...] = ()
    yes: tuple[int, ...] = ()
    no: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Probe:
    """The trainer asks a rank whose vote has not come, past the tree, whether it is there."""

    session: str
    coordinator: int
    step: Step


@dataclass(frozen=True)
class Present:
    """Answer to `Probe`: `vote` None if the rank has none for that step, then `reason` says why."""

    session: str
    step: Step
    rank: int
    vote: bool | None
    reason: str


@dataclass(frozen=True)
class Ask:
    """A rank that said yes and has not learned the decision asks for it."""

    session: str
    rank: int


Message = Begin | Stream | Data | Alive | Verify | Decide | Ballots | Probe | Present | Ask


class Outgoing(NamedTuple):
    """A message and the address it goes to."""

    to: int
    message: Message
