"""Conformance reports made by hand, for tests of what shows them."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from hardpoint.conformance.results import LawResult, Report, Status, SubjectFacts

REASONS = {
    Status.PASSED: "",
    Status.FAILED: "expected 3.0, found nan at [2, 7]",
    Status.KNOWN_FAILURE: "ticket 1234 (found: expected 3.0, found nan at [2, 7])",
    Status.NOT_APPLICABLE: "needs 2 devices, 1 visible",
    Status.NOT_CLAIMED: "the backend does not declare graph",
}


def result(id: str, status: Status = Status.PASSED, *, claim: str | None = None) -> LawResult:
    """One law with a plausible reason."""
    return LawResult(
        id,
        id.partition(".")[0],
        "claimed" if claim else "required",
        claim,
        f"What {id} says must hold.",
        status,
        REASONS[status],
        f"hardpoint conformance acme --law {id} --seed 3",
        (1,),
        0.25,
    )


def report(*results: LawResult, name: str = "acme", problems: tuple[str, ...] = (), complete: bool = True) -> Report:
    """A run of these laws on one device."""
    subject = SubjectFacts(
        name,
        name,
        "the ACME One accelerator",
        "acme",
        (1, 0),
        ("acme:0, 16.0 GiB",),
        ("graph", "dtype float32"),
        (),
        (("python", "3.12.1"), ("torch", "2.13.0")),
    )
    return Report(subject, 3, "2026-01-02T03:04:05Z", 12.5, complete, results, problems)


def one_of_each() -> Report:
    """A law of every status, in three parts."""
    return report(
        result("device.a-passes"),
        result("device.b-fails", Status.FAILED),
        result("streams.c-is-known", Status.KNOWN_FAILURE),
        result("streams.d-needs-more", Status.NOT_APPLICABLE),
        result("graphs.e-is-not-claimed", Status.NOT_CLAIMED, claim="graph"),
    )


def schema() -> dict[str, Any]:
    """The schema that reports in JSON keep, as shipped."""
    text = resources.files("hardpoint.conformance").joinpath("report.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded
