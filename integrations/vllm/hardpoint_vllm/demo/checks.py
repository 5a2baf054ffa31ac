"""What the demo found out: one `Check` per claim, a `ModelReport` per model, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Check:
    """A claim that was tested.

    Attributes:
        key: the same for every model, for example ``"update-1"``.
        claim: what must hold, for people.
        passed: whether it does.
        found: what was seen, for example ``"192 of 192 tokens equal"``.
    """

    key: str
    claim: str
    passed: bool
    found: str


@dataclass(frozen=True)
class Timing:
    """Seconds that a step took."""

    step: str
    seconds: float


@dataclass
class ModelReport:
    """All about one model. `failure` says why the run ended early, if it did."""

    name: str
    title: str
    facts: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    failure: str = ""

    @property
    def passed(self) -> bool:
        return not self.failure and bool(self.checks) and all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "passed": self.passed, "seconds": round(sum(t.seconds for t in self.timings), 3)}
