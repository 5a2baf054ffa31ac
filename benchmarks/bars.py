"""Fractions of a floor as an SVG of bars, for where no plotting library is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

LEFT, WIDTH, RIGHT, BAR, GAP, TOP = 330, 420, 120, 13, 9, 46
COLOURS = {"hardpoint": "#2563eb"}
OTHER = ("#94a3b8", "#cbd5e1", "#64748b")


def draw(path: Path, title: str, groups: Mapping[str, Sequence[tuple[str, float, str]]]) -> None:
    """One row of bars per group: (name, fraction of the floor between 0 and about 1, text behind the bar)."""
    parts = [f'<text x="10" y="18" font-size="13">{escape(title)}</text>']
    y = TOP
    for group, bars in groups.items():
        parts.append(f'<text x="{LEFT - 8}" y="{y + BAR - 3}" text-anchor="end" font-size="10">{escape(group)}</text>')
        others = iter(OTHER)
        for name, fraction, text in bars:
            colour = COLOURS.get(name) or next(others, OTHER[-1])
            length = max(1.0, min(fraction, 1.05) * WIDTH)
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR - 2}" fill="{colour}"/>')
            parts.append(f'<text x="{LEFT + length + 4:.1f}" y="{y + BAR - 4}" font-size="9">{escape(text)}</text>')
            y += BAR
        y += GAP
    for tenth in range(0, 11, 2):
        x = LEFT + WIDTH * tenth / 10
        parts.append(f'<line x1="{x}" x2="{x}" y1="{TOP - 6}" y2="{y}" stroke="#e2e8f0"/>')
        parts.append(f'<text x="{x}" y="{TOP - 10}" text-anchor="middle" font-size="9">{tenth / 10:.1f}</text>')
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + RIGHT} {y + 8}" '
        f'font-family="sans-serif"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )
