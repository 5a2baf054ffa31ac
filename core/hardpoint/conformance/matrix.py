"""The support matrix: reports of several backends as one Markdown table."""

from __future__ import annotations

from collections.abc import Sequence

from hardpoint.conformance.results import Report, Status, tally


def support_matrix(reports: Sequence[Report]) -> str:
    """A row per part, a column per report: laws passed of laws due, and what is not claimed in words below."""
    parts = list(dict.fromkeys(part for report in reports for part in report.parts()))
    lines = [
        "| part | " + " | ".join(report.subject.name or report.subject.label for report in reports) + " |",
        "|---|" + "---|" * len(reports),
        *(f"| {part} | " + " | ".join(_cell(report, part) for report in reports) + " |" for part in parts),
        "| **all** | " + " | ".join(_total(report) for report in reports) + " |",
        "| device | " + " | ".join(_device(report) for report in reports) + " |",
        "| torch | " + " | ".join(dict(report.subject.versions).get("torch", "") for report in reports) + " |",
        "| tested | " + " | ".join(report.started[:10] for report in reports) + " |",
    ]
    notes = [note for report in reports if (note := _not_claimed(report))]
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def _cell(report: Report, part: str) -> str:
    results = [result for result in report.results if result.part == part]
    counts = tally(results)
    due = len(results) - counts[Status.NOT_CLAIMED] - counts[Status.NOT_APPLICABLE]
    if not results:
        return ""
    if due == 0:
        return "not claimed" if counts[Status.NOT_CLAIMED] else "not applicable"
    mark = "❌" if counts[Status.FAILED] else "⚠️" if counts[Status.KNOWN_FAILURE] else "✅"
    return f"{mark} {counts[Status.PASSED]}/{due}"


def _total(report: Report) -> str:
    counts = tally(report.results)
    due = len(report.results) - counts[Status.NOT_CLAIMED] - counts[Status.NOT_APPLICABLE]
    word = "kept" if report.kept else "broken"
    return f"{counts[Status.PASSED]}/{due}, {word}" + ("" if report.complete else ", a selection")


def _device(report: Report) -> str:
    count = len(report.subject.devices)
    return f"{count} x {report.subject.device_type}" if count else ""


def _not_claimed(report: Report) -> str:
    claims = list(dict.fromkeys(r.claim or r.id for r in report.results if r.status is Status.NOT_CLAIMED))
    return f"{report.subject.name or report.subject.label} does not claim: {', '.join(claims)}." if claims else ""
