"""Lines on doubly logarithmic axes as an SVG, for where no plotting library is installed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 380, 280, 52, 16, 34, 34
LEGEND = 13  # height of a line's name, below the axes: beside the lines it would lie on one of them
COLOURS = ("#2563eb", "#94a3b8", "#16a34a", "#d97706")


@dataclass(frozen=True)
class Line:
    """A name and points of positive numbers."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    lines: Sequence[Line]


def draw(path: Path, panels: Sequence[Panel]) -> None:
    """Write all panels side by side."""
    height = HEIGHT + LEGEND * max(len(panel.lines) for panel in panels) + 4
    body = "".join(f'<g transform="translate({index * WIDTH},0)">{_panel(p)}</g>' for index, p in enumerate(panels))
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH * len(panels)} {height}" '
        f'font-family="sans-serif" font-size="10"><rect width="100%" height="100%" fill="white"/>{body}</svg>\n'
    )


def _panel(panel: Panel) -> str:
    points = [point for line in panel.lines for point in line.points]
    (x0, x1), (y0, y1) = (_span([p[axis] for p in points]) for axis in (0, 1))

    def x(value: float) -> float:
        return LEFT + (math.log10(value) - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (math.log10(value) - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<text x="{LEFT}" y="18" font-size="11">{escape(panel.title)}</text>']
    for tick in _ticks(y0, y1):
        at = y(tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#e2e8f0"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{at + 3:.1f}" text-anchor="end">{tick:g}</text>')
    for value in dict.fromkeys(point[0] for point in points):
        parts.append(f'<text x="{x(value):.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{_short(value)}</text>')
    for number, line in enumerate(panel.lines):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line.points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="2.5" fill="{colour}"/>' for a, b in line.points]
        below = HEIGHT - 4 + LEGEND * number
        parts.append(f'<circle cx="{LEFT + 4}" cy="{below + 7}" r="2.5" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + 12}" y="{below + 10.5}">{escape(line.name)}</text>')
    return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two powers of ten: every power, and 2 and 5 as well where there are few powers."""
    steps = (1, 2, 5) if high - low < 2 else (1,)
    found = [step * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    return [tick for tick in found if low <= math.log10(tick) <= high]


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = math.log10(min(values)), math.log10(max(values))
    return (low - 0.05, high + 0.05) if high > low else (low - 0.5, high + 0.5)


def _short(value: float) -> str:
    return f"{value / 1000:.0f}k" if value >= 10000 else f"{value:g}"
