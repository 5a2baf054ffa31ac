"""`law`: turns a function into a law of the kit. Adding a law is one function in ``laws/<part>.py``.

    @law(part="streams", id="streams.work-is-ordered")
    def work_is_ordered(context: LawContext) -> None:
        \"\"\"Work queued on one stream runs in the order in which it was queued.\"\"\"
        ...

The docstring is the statement: its first paragraph is what the report prints. The function returns when the law holds
and raises otherwise, as a rule through `LawContext.check`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from hardpoint.backend import Capabilities
    from hardpoint.conformance.claims import Claim
    from hardpoint.conformance.context import LawContext

LawFunction = Callable[["LawContext"], None]
Profile = Literal["required", "claimed"]

_ID = re.compile(r"[a-z][a-z0-9_]*\.[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Law:
    """One rule that every backend keeps.

    Attributes:
        id: ``part.kebab-case-statement``.
        part: name of the file in ``laws/`` that it lives in.
        statement: what must hold, as one sentence or a few.
        function: the check; called with a `LawContext` on every rank.
        claim: the declared fact that makes it due; None for a required law, which nobody can skip.
        ranks: world sizes to run in; one process each, 1 means a single process.
        devices: devices that it needs; with fewer it is reported as not applicable, with this number.
        deadline: seconds for one run, everything included; a run that takes longer is killed and fails.
        patient: it takes its time (waits for deadlines, ends processes, keeps devices busy): the quick self-test runs
            it on the mutants that name it only, and beside no other law over several ranks.
    """

    id: str
    part: str
    statement: str
    function: LawFunction
    claim: Claim | None = None
    ranks: tuple[int, ...] = (1,)
    devices: int = 1
    deadline: float = 60.0
    patient: bool = False

    @property
    def profile(self) -> Profile:
        return "required" if self.claim is None else "claimed"

    def due(self, capabilities: Capabilities) -> bool:
        """Whether a backend with these capabilities has to keep it."""
        return self.claim is None or self.claim.declared(capabilities)


def law(
    *,
    part: str,
    id: str,
    claim: Claim | None = None,
    ranks: int | tuple[int, ...] = 1,
    devices: int = 1,
    deadline: float = 60.0,
    statement: str | None = None,
    patient: bool = False,
) -> Callable[[LawFunction], Law]:
    """Make a `Law` of a function whose docstring states it; `statement` replaces the docstring for generated laws.

    Raises ValueError, at import, for an id that is not ``part.kebab-case`` and for a missing statement.
    """

    def decorate(function: LawFunction) -> Law:
        text = statement or inspect.getdoc(function) or ""
        first = " ".join(text.split("\n\n")[0].split())
        if not _ID.fullmatch(id) or not id.startswith(part + "."):
            raise ValueError(f"law id {id!r} must read '{part}.kebab-case-statement'")
        if not first:
            raise ValueError(f"law {id} has no statement; write it as the docstring of {function.__qualname__}")
        worlds = (ranks,) if isinstance(ranks, int) else ranks
        if not worlds or min(worlds) < 1:
            raise ValueError(f"law {id} needs at least one world size of 1 or more, got {ranks}")
        return Law(id, part, first, function, claim, worlds, devices, deadline, patient)

    return decorate
