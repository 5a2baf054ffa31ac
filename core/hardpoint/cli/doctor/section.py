"""What a section of the report is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hardpoint.overrides import Override

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """Something that somebody should know.

    Attributes:
        severity: ``error``: it does not work; ``warning``: it will hurt; ``note``: good to know, exit status stays 0.
        what: a sentence: what is wrong.
        do: a sentence: what to do about it.
    """

    severity: Severity
    what: str
    do: str

    def as_dict(self) -> dict[str, str]:
        return {"severity": self.severity, "what": self.what, "do": self.do}


@dataclass(frozen=True)
class DoctorSection:
    """One part of the report.

    Attributes:
        title: heading.
        rows: facts as (name, value).
        findings: what is wrong.
        overrides: what an integration changes in its host.
    """

    title: str
    rows: tuple[tuple[str, str], ...] = ()
    findings: tuple[Finding, ...] = ()
    overrides: tuple[Override, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "rows": dict(self.rows),
            "findings": [finding.as_dict() for finding in self.findings],
            "overrides": [override.as_dict() for override in self.overrides],
        }
