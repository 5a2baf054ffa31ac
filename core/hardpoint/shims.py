"""Repairs of somebody else's fault that take themselves out when the fault is mended: listed by ``hardpoint doctor``.

A shim is never installed because of a version alone: the version says where to look, the host's own behaviour decides.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from packaging.specifiers import SpecifierSet

State = Literal["active", "needed", "retired", "absent"]


@dataclass(frozen=True)
class Verdict:
    """Attributes:
    faulty: whether the host, as it is installed, has the fault.
    why: a sentence: what was looked at and what was found.
    """

    faulty: bool
    why: str


@dataclass(frozen=True)
class ShimRow:
    """What became of a shim in this process.

    Attributes:
        name: of the shim.
        host: distribution and version, ``peft 0.19.1``.
        state: ``active``: the fault is here and repaired; ``needed``: it is here and not repaired; ``retired``: the
            host has no such fault (any more); ``absent``: the host is not installed.
        why: a sentence.
    """

    name: str
    host: str
    state: State
    why: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Shim:
    """One repair.

    Attributes:
        name: short, for people.
        host: distribution that has the fault.
        versions: PEP 440 specifier of the host's versions in which to look for it; beyond them it is retired unseen.
        reason: a sentence: what goes wrong without it.
        owner: dotted name of the module that does it.
        examine: asks the installed host by what it does, not by its text. May import it.
        put: installs the repair; False if it was there.
        take: takes it out again; no effect where it is not.
        installed: whether it is in place in this process. Imports nothing.
    """

    name: str
    host: str
    versions: str
    reason: str
    owner: str
    examine: Callable[[], Verdict]
    put: Callable[[], bool]
    take: Callable[[], None]
    installed: Callable[[], bool]

    def row(self) -> ShimRow:
        """What became of it; examines the host unless the shim is in place."""
        version = installed_version(self.host)
        if version is None:
            return ShimRow(self.name, self.host, "absent", f"{self.host} is not installed.")
        host = f"{self.host} {version}"
        if self.installed():
            return ShimRow(self.name, host, "active", self.reason)
        verdict = self._look(version)
        return ShimRow(self.name, host, "needed" if verdict.faulty else "retired", verdict.why)

    def apply(self) -> ShimRow:
        """Install the repair where the host has the fault and it is not in place."""
        version = installed_version(self.host)
        if version is not None and not self.installed() and self._look(version).faulty:
            self.put()
        return self.row()

    def _look(self, version: str) -> Verdict:
        if not SpecifierSet(self.versions, prereleases=True).contains(version):
            return Verdict(False, f"{self.host} {version} is not one of those with the fault ({self.versions}).")
        return self.examine()


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution by its metadata; None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
