"""Bar chart of coverage by part, as plain HTML, so that its text keeps its size on a telephone."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from hardpoint.conformance.results import Report, Status, tally

_ORDER = (Status.PASSED, Status.FAILED, Status.KNOWN_FAILURE, Status.NOT_APPLICABLE, Status.NOT_CLAIMED)


def coverage_chart(report: Report, colours: Mapping[Status, str]) -> str:
    """One bar per part, as long as the part has laws; every segment says its count in a tooltip and by its colour."""
    parts = report.parts()
    most = max(sum(result.part == part for result in report.results) for part in parts)
    rows = "".join(_row(report, part, most, colours) for part in parts)
    return f'<div class="bars">{rows}</div>{_legend(report, colours)}'


def _row(report: Report, part: str, most: int, colours: Mapping[Status, str]) -> str:
    counts = tally(result for result in report.results if result.part == part)
    total = sum(counts.values())
    due = total - counts[Status.NOT_CLAIMED] - counts[Status.NOT_APPLICABLE]
    pieces = "".join(
        f'<i style="flex-grow:{counts[status]};background:{colours[status]}" '
        f'title="{escape(part)}: {counts[status]} {status.value}"></i>'
        for status in _ORDER
        if counts[status]
    )
    words = ", ".join(f"{counts[status]} {status.value}" for status in _ORDER if counts[status])
    return (
        f'<div class="row"><a href="#{escape(part)}">{escape(part)}</a>'
        f'<div class="track"><div class="bar" role="img" aria-label="{escape(part)}: {words}" '
        f'style="width:{100 * total / most:.1f}%">{pieces}</div></div>'
        f"<span>{counts[Status.PASSED]} of {due} due</span></div>"
    )


def _legend(report: Report, colours: Mapping[Status, str]) -> str:
    keys = "".join(
        f'<span><i style="background:{colours[status]}"></i>{status.value}</span>'
        for status in _ORDER
        if report.count(status)
    )
    return f'<div class="legend">{keys}</div>'
