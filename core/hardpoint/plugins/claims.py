"""Which distributions claim which backend names: entry points read from metadata, nothing imported."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable
from dataclasses import dataclass

GROUP = "hardpoint.backends"
OWN_DISTRIBUTION = "hardpoint"


@dataclass(frozen=True)
class Claim:
    """One entry point of one installed distribution.

    Attributes:
        name: the entry point's name, case-folded.
        value: what it names, ``module`` or ``module:attribute``.
        distribution: the distribution's name, or a word for one without a readable name.
        version: its version.
        entry_point: to load it by.
        source: the distribution itself, for its fingerprint.
    """

    name: str
    value: str
    distribution: str
    version: str
    entry_point: importlib.metadata.EntryPoint
    source: importlib.metadata.Distribution

    @property
    def origin(self) -> str:
        return f"{self.distribution} {self.version}"

    @property
    def own(self) -> bool:
        """Whether it comes with hardpoint itself."""
        return normalized(self.distribution) == OWN_DISTRIBUTION


def normalized(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).casefold()


@dataclass(frozen=True)
class Claims:
    """All claims, and what could not be read: one distribution's torn metadata must not hide the others."""

    claims: tuple[Claim, ...]
    unreadable: tuple[str, ...]


def read_claims(group: str = GROUP) -> Claims:
    """The claims of all distributions on ``sys.path``, in the order of names, then of distributions."""
    found: list[Claim] = []
    unreadable: list[str] = []
    seen: set[str] = set()
    for source in importlib.metadata.distributions():
        try:
            name = _name(source)
            if normalized(name) in seen:
                continue  # a second copy further down sys.path: the first one is the one that gets imported
            seen.add(normalized(name))
            entries = [entry for entry in source.entry_points if entry.group == group]
        except Exception as error:  # noqa: BLE001 - whatever a torn metadata file raises, it becomes a line in the table
            unreadable.append(f"the metadata of {_where(source)} cannot be read: {type(error).__name__}: {error}")
            continue
        found += [_claim(source, name, entry) for entry in entries]
    return Claims(tuple(sorted(found, key=lambda claim: (claim.name, claim.distribution))), tuple(unreadable))


def _claim(source: importlib.metadata.Distribution, name: str, entry: importlib.metadata.EntryPoint) -> Claim:
    return Claim(entry.name.casefold(), entry.value, name, _field(source, "Version") or "(no version)", entry, source)


def _name(source: importlib.metadata.Distribution) -> str:
    return _field(source, "Name") or _where(source)


def _field(source: importlib.metadata.Distribution, key: str) -> str | None:
    # Python 3.10 gives None for a folder without METADATA, and an absent key is None or an error, by version.
    metadata = source.metadata
    return str(metadata[key]) if metadata and key in metadata else None


def _where(source: importlib.metadata.Distribution) -> str:
    return str(getattr(source, "_path", "a distribution without a name"))


def twice_claimed(claims: Iterable[Claim]) -> dict[str, tuple[Claim, ...]]:
    """Names that more than one claim holds, with all of their claims."""
    by_name: dict[str, list[Claim]] = {}
    for claim in claims:
        by_name.setdefault(claim.name, []).append(claim)
    return {name: tuple(held) for name, held in by_name.items() if len(held) > 1}
