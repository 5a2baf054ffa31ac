"""Rows of the weight-sync benchmark with their bars, as seconds over what the ceiling takes for the same bytes."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from report import Row, save

MIB = 1 << 20
PEERS = {
    "per_tensor_http": ("per tensor, a POST each", 15),
    "per_tensor_sync": ("per tensor, synchronous", 15),
    "bucket_swift_512": ("buckets as ms-swift", 5),
    "vllm_packed_1024x2": ("packed as vLLM", 2),
    "bucket_double_512": ("plain double-buffered buckets, 512 MiB", 0),
    "bucket_double_1024": ("plain double-buffered buckets, 1 GiB", 0),
    "bucket_double_512_verified": ("plain double-buffered buckets, sums compared", 0),
}


@dataclass
class Measured:
    """Seconds of each repetition (of the slowest rank), and whether all of them left the right bits."""

    seconds: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)
    correct: bool = True
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def report(
    done: dict[str, Measured],
    alone: dict[str, dict[str, float]],
    *,
    nbytes: int,
    tensors: int,
    ranks: int,
    pinned: float,
    peers: Path | None,
    out: Path,
) -> None:
    """Rows with their bars: seconds over the seconds that the ceiling would take for the same bytes."""
    rate = done["ceiling"].facts["GB/s"] * 1e9
    floor = nbytes / rate
    group = f"{nbytes / 1e9:.2f} GB in {tensors} tensors, {ranks} ranks: ms (bar: times the ceiling)"
    rows = [Row(group, "ceiling: the same bytes at the rate of a 1 GiB broadcast", floor * 1e3, "ms", reference=True,
                note=f"{rate / 1e9:.1f} GB/s")]  # fmt: skip

    def add(name: str, seconds: list[float], bar: float | None, right: bool, note: str = "") -> None:
        spread = (max(seconds) - min(seconds)) / 2
        value = statistics.median(seconds)
        told = f"{nbytes / value / 1e9:.1f} GB/s = {floor / value:.3f}" + (f", {note}" if note else "")
        rows.append(Row(group, name, value * 1e3, "ms", spread * 1e3, bar=bar, note=told + ("" if right else " WRONG")))

    two = ranks == 2
    if "off" in done:
        one = done["off"]
        add("hardpoint, mode off", one.seconds, 1 / (0.94 if two else 0.90), one.correct,
            f"trainer buffers {one.facts['trainer_buffer_bytes'] / MIB:.0f} MiB")  # fmt: skip
    if "shadow" in done:
        one = done["shadow"]
        add("hardpoint, mode shadow: staged and verified", one.parts["staged"], 1 / 0.85, one.correct)
        pause = statistics.median(a - b for a, b in zip(one.seconds, one.parts["staged"], strict=True))
        add("hardpoint, mode shadow: committed", one.seconds, 1 / 0.72, one.correct,
            f"serving pause {pause * 1e3:.2f} ms")  # fmt: skip
    if "ep" in done:
        add("hardpoint, experts to their owners, mode off", done["ep"].seconds, 1 / 0.95, done["ep"].correct)
    if "undo" in done:
        slow = max(floor, nbytes / pinned)
        other = "mode undo: ms (bar: times the larger of broadcast and copy to the host)"
        rows += [Row(other, "these bytes to pinned memory, or the broadcast", slow * 1e3, "ms",
                     reference=True, note=f"{pinned / 1e9:.1f} GB/s"),
                 Row(other, "hardpoint, mode undo", done["undo"].median * 1e3, "ms", bar=1.10,
                     note="" if done["undo"].correct else "WRONG")]  # fmt: skip
    if peers and "off" in done:
        found = json.loads(peers.read_text())["results"]
        for key, (name, times) in PEERS.items():
            if "seconds_median" in found.get(key, {}):
                value = found[key]["seconds_median"]
                faster = value / done["off"].median
                verdict = f"; off is {faster:.1f}x faster" + (
                    f", bar {times}x {'met' if faster >= times else 'MISSED'}" if times else ""
                )
                rows.append(Row(group, name, value * 1e3, "ms", note=f"{floor / value:.3f}{verdict}"))
        rows.sort(key=lambda row: row.group != group)
    if alone:
        other = "the layout transform alone: us for 1 GB moved (bar: times one copy)"
        copy = alone["one copy by torch"]["GB/s"]
        rows += [Row(other, ("hardpoint, " if name != "one copy by torch" else "") + name, 1e6 / one["GB/s"], "us",
                     reference=name == "one copy by torch",
                     bar=1 / 0.85 if "experts" in name else None,
                     note=f"{one['GB/s']:.0f} GB/s = {one['GB/s'] / copy:.3f}" + ("" if one["right"] else " WRONG"))
                 for name, one in alone.items()]  # fmt: skip
    save("weight_sync", rows, out)
    draw(rows, out / "weight_sync.svg")
    facts = {name: {"seconds": one.seconds, "parts": one.parts, "correct": one.correct} | one.facts
             for name, one in done.items()}  # fmt: skip
    (out / "weight_sync_runs.json").write_text(json.dumps({"runs": facts, "transforms": alone}, indent=1))


def draw(rows: Sequence[Row], path: Path) -> None:
    """Bars of what fraction of the ceiling each way reaches, and each mode's own floor, as an SVG."""
    floors = {row.group: row.value for row in rows if row.reference}
    chosen = [row for row in rows if row.unit == "ms" and not row.reference and row.group in floors]
    width, left, height = 760, 330, 22
    scale, total = width - left - 60, 44 + len(chosen) * height
    title = "fraction of the ceiling (mode undo: of its own floor); red: what is asked for"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="12" y="20" font-size="12">{title}</text>',
    ]
    for number, row in enumerate(chosen):
        fraction, y = floors[row.group] / row.value, 34 + number * height
        colour, end = "#2563eb" if row.name.startswith("hardpoint") else "#94a3b8", left + fraction * scale
        parts += [
            f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{escape(row.name)}</text>',
            f'<rect x="{left}" y="{y}" width="{end - left:.1f}" height="{height - 6}" fill="{colour}"/>',
            f'<text x="{end + 5:.1f}" y="{y + 12}">{fraction:.3f}</text>',
        ]
        if row.bar is not None:
            x = left + scale / row.bar
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 2}" y2="{y + height - 4}" stroke="#dc2626"/>')
    x = left + scale
    parts.append(f'<line x1="{x}" x2="{x}" y1="28" y2="{total - 8}" stroke="#64748b" stroke-dasharray="3"/></svg>')
    path.write_text("\n".join(parts) + "\n")
