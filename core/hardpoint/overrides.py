"""What an integration changes in its host: one row each, printed by ``hardpoint doctor``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["entry point", "subclass", "registration", "patch"]


@dataclass(frozen=True)
class Override:
    """One thing of a host that is registered with, derived from or replaced.

    Attributes:
        target: dotted name in the host.
        kind: from the mildest, an official ``entry point`` or ``registration``, to a ``patch``.
        owner: dotted name of our code that does it.
        reason: a sentence: what goes wrong without it.
        versions: PEP 440 specifier of the host's versions that it is for.
        installed: whether it is in place in this process.
        note: what else a reader should know, for example when it can go.
    """

    target: str
    kind: Kind
    owner: str
    reason: str
    versions: str
    installed: bool
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
