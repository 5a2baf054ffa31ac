"""``HARDPOINT_PLUGINS``: plugins are code, and this says whose code may be loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hardpoint.environment import PLUGINS
from hardpoint.plugins.claims import Claim, normalized


@dataclass(frozen=True)
class AllowList:
    """Names of backends or distributions; None allows all."""

    names: tuple[str, ...] | None

    def allows(self, claim: Claim) -> bool:
        return self.names is None or claim.name in self.names or normalized(claim.distribution) in self.names

    def unmatched(self, claims: Iterable[Claim]) -> tuple[str, ...]:
        """Listed names that no claim has: a misspelled allow-list would otherwise pass for an empty machine."""
        if self.names is None:
            return ()
        present = {name for claim in claims for name in (claim.name, normalized(claim.distribution))}
        return tuple(name for name in self.names if name not in present)


def read_allow_list(environment: Mapping[str, str]) -> AllowList:
    """The list that `environment` gives; unset or empty allows all."""
    listed = tuple(normalized(name.strip()) for name in environment.get(PLUGINS, "").split(",") if name.strip())
    return AllowList(listed or None)
