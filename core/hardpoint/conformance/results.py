"""Results of a run of the kit, as plain data that turns into JSON and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from hardpoint.errors import HardpointError

SCHEMA_VERSION = 1


class Status(str, Enum):
    """What came of a law. The order is the one of reports: worst first."""

    FAILED = "failed"
    KNOWN_FAILURE = "known failure"
    PASSED = "passed"
    NOT_APPLICABLE = "not applicable"
    NOT_CLAIMED = "not claimed"


@dataclass(frozen=True)
class LawResult:
    """One law.

    Attributes:
        reason: why it failed, or why it was not run; empty for a law that passed.
        rerun: the one command that runs this law alone with the same seed.
        seconds: sum over the worlds it ran in.
    """

    id: str
    part: str
    profile: str
    claim: str | None
    statement: str
    status: Status
    reason: str
    rerun: str
    ranks: tuple[int, ...]
    seconds: float
    notes: tuple[str, ...] = ()
    traceback: str = ""
    printed: str = ""


@dataclass(frozen=True)
class SubjectFacts:
    """What was tested, as the report prints it. Empty where the backend could not be built."""

    label: str
    name: str = ""
    summary: str = ""
    device_type: str = ""
    api: tuple[int, int] = (0, 0)
    devices: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    tolerances: tuple[str, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Report:
    """A run of the kit.

    Attributes:
        subject: what was tested.
        seed: of all laws.
        started: ISO 8601, UTC.
        seconds: wall time.
        complete: every law of the kit was looked at, not a selection.
        results: one per law, in the order of the kit.
        problems: sentences about the run itself: a backend that cannot be built, an expired known failure.
        available: a backend of that name can be chosen here; False explains why every law failed.
    """

    subject: SubjectFacts
    seed: int
    started: str
    seconds: float
    complete: bool
    results: tuple[LawResult, ...]
    problems: tuple[str, ...] = ()
    available: bool = True

    @property
    def kept(self) -> bool:
        """No law failed and nothing is wrong with the run."""
        return not self.problems and not any(result.status is Status.FAILED for result in self.results)

    def count(self, status: Status) -> int:
        return sum(result.status is status for result in self.results)

    def parts(self) -> list[str]:
        return list(dict.fromkeys(result.part for result in self.results))


def tally(results: Iterable[LawResult]) -> dict[Status, int]:
    """How many results have each status; statuses with none are there with 0."""
    counts = dict.fromkeys(Status, 0)
    for result in results:
        counts[result.status] += 1
    return counts


def to_json(report: Report) -> dict[str, Any]:
    """The report as ``report.schema.json`` describes it."""
    return {
        "schema": SCHEMA_VERSION,
        "subject": {**_plain(asdict(report.subject)), "versions": dict(report.subject.versions)},
        "seed": report.seed,
        "started": report.started,
        "seconds": report.seconds,
        "complete": report.complete,
        "available": report.available,
        "kept": report.kept,
        "totals": {status.value: count for status, count in tally(report.results).items()},
        "problems": list(report.problems),
        "results": [{**_plain(asdict(result)), "status": result.status.value} for result in report.results],
    }


def from_json(data: dict[str, Any], where: str) -> Report:
    """A report read back; HardpointError with `where` in it if it is not one."""
    if data.get("schema") != SCHEMA_VERSION:
        raise HardpointError(
            f"{where}: expected a conformance report of schema {SCHEMA_VERSION}, found schema {data.get('schema')!r}"
        )
    try:
        subject = dict(data["subject"])
        for key in ("devices", "claims", "tolerances"):
            subject[key] = tuple(subject[key])
        subject["api"] = (int(subject["api"][0]), int(subject["api"][1]))
        subject["versions"] = tuple(subject["versions"].items())
        results = tuple(
            LawResult(
                **{
                    **result,
                    "status": Status(result["status"]),
                    "ranks": tuple(result["ranks"]),
                    "notes": tuple(result["notes"]),
                }
            )
            for result in data["results"]
        )
        return Report(
            SubjectFacts(**subject),
            data["seed"],
            data["started"],
            data["seconds"],
            data["complete"],
            results,
            tuple(data["problems"]),
            data["available"],
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise HardpointError(f"{where}: not a conformance report: {type(error).__name__}: {error}") from error


def _plain(data: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in data.items()}
