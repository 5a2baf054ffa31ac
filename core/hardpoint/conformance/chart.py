"""Bar chart of coverage by part, as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from hardpoint.conformance.results import Report, Status, tally

_ROW = 30
_BAR = 16
_LEFT = 150
_WIDTH = 960
_RIGHT = 96
_ORDER = (Status.PASSED, Status.FAILED, Status.KNOWN_FAILURE, Status.NOT_APPLICABLE, Status.NOT_CLAIMED)


def coverage_chart(report: Report, colours: Mapping[Status, str]) -> str:
    """One bar per part, as long as the part has laws; every segment says its count in a tooltip and by its colour."""
    parts = report.parts()
    most = max(sum(result.part == part for result in report.results) for part in parts)
    unit = (_WIDTH - _LEFT - _RIGHT) / most
    rows = [_row(report, part, number, unit, colours) for number, part in enumerate(parts)]
    height = _ROW * len(parts) + 34
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="laws by part and result">'
        f"{''.join(rows)}{_legend(report, height - 14, colours)}</svg>"
    )


def _row(report: Report, part: str, number: int, unit: float, colours: Mapping[Status, str]) -> str:
    counts = tally(result for result in report.results if result.part == part)
    top = number * _ROW
    middle = top + _ROW / 2
    pieces = [f'<text x="0" y="{middle + 4.5}">{escape(part)}</text>']
    left = float(_LEFT)
    for status in _ORDER:
        if not counts[status]:
            continue
        width = counts[status] * unit
        pieces.append(
            f'<rect x="{left:.1f}" y="{middle - _BAR / 2}" width="{max(width - 2, 1):.1f}" height="{_BAR}" rx="3" '
            f'fill="{colours[status]}"><title>{escape(part)}: {counts[status]} {status.value}</title></rect>'
        )
        left += width
    total = sum(counts.values())
    due = total - counts[Status.NOT_CLAIMED] - counts[Status.NOT_APPLICABLE]
    pieces.append(
        f'<text class="soft" x="{left + 8:.1f}" y="{middle + 4.5}">{counts[Status.PASSED]} of {due} due</text>'
    )
    return "".join(pieces)


def _legend(report: Report, middle: float, colours: Mapping[Status, str]) -> str:
    left = float(_LEFT)
    pieces = []
    for status in _ORDER:
        if not report.count(status):
            continue
        pieces.append(
            f'<rect x="{left}" y="{middle - 5}" width="10" height="10" rx="3" fill="{colours[status]}"/>'
            f'<text class="soft" x="{left + 16}" y="{middle + 4.5}">{status.value}</text>'
        )
        left += 34 + 7.2 * len(status.value)
    return "".join(pieces)
