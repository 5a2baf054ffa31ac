"""What every benchmark here does with its rows: a table for people, JSON for programs, a picture for the docs."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Row:
    """One measured thing.

    Attributes:
        group: rows of a group stand beside one another; ratios are taken to the group's row marked `reference`.
        name: what was run.
        value: median, in `unit`.
        unit: for example "us".
        spread: half of the distance between the 20 % and 80 % quantiles, in `unit`.
        reference: the row that others of the group are compared with.
        bar: ratio to the reference that is asked for, None if none is.
        note: anything a reader has to know.
    """

    group: str
    name: str
    value: float
    unit: str
    spread: float = 0.0
    reference: bool = False
    bar: float | None = None
    note: str = ""


def environment() -> dict[str, Any]:
    """Device, versions and date: a number without them is worth nothing."""
    found: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
    }
    if torch.cuda.is_available():
        found |= {
            "device": torch.cuda.get_device_name(),
            "devices": torch.cuda.device_count(),
            "cuda": torch.version.cuda,
        }
    try:
        import triton

        found["triton"] = triton.__version__
    except ImportError:
        found["triton"] = None
    return found


def ratios(rows: Sequence[Row]) -> dict[tuple[str, str], float]:
    """(group, name) -> value over the group's reference."""
    references = {row.group: row.value for row in rows if row.reference}
    return {(row.group, row.name): row.value / references[row.group] for row in rows if row.group in references}


def save(name: str, rows: Sequence[Row], folder: Path, *, show: bool = True) -> None:
    """Write NAME.json into `folder`; with `show` also print the table and draw NAME.png."""
    folder.mkdir(parents=True, exist_ok=True)
    relative = ratios(rows)
    facts = environment()
    (folder / f"{name}.json").write_text(
        json.dumps(
            {"environment": facts, "rows": [asdict(r) | {"ratio": relative.get((r.group, r.name))} for r in rows]},
            indent=1,
        )
    )
    if not show:
        return
    print("  ".join(f"{key} {value}" for key, value in facts.items()))
    group = ""
    for row in rows:
        if row.group != group:
            group = row.group
            print(f"\n{group}")
        ratio = relative.get((row.group, row.name))
        verdict = (
            "" if row.bar is None or ratio is None else f"bar {row.bar:.2f} {'met' if ratio <= row.bar else 'MISSED'}"
        )
        shown = "" if ratio is None else f"{ratio:6.2f}x"
        print(f"  {row.name:<44}{row.value:10.2f} ±{row.spread:<6.2f}{row.unit:<4}{shown:>8}  {verdict}  {row.note}")
    _draw(name, rows, folder)


def _draw(name: str, rows: Sequence[Row], folder: Path) -> None:
    try:
        import matplotlib
    except ImportError:
        print("no picture: matplotlib is not installed here")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    # A group of one compares nothing; it is in the table.
    groups = [g for g in dict.fromkeys(row.group for row in rows) if sum(row.group == g for row in rows) > 1]
    rows = [row for row in rows if row.group in groups]
    sizes = [sum(row.group == group for row in rows) for group in groups]
    figure, axes = pyplot.subplots(
        len(groups), 1, figsize=(9, 0.36 * len(rows) + 0.9 * len(groups)), height_ratios=sizes, squeeze=False
    )
    for axis, group in zip(axes[:, 0], groups, strict=True):
        chosen = [row for row in rows if row.group == group][::-1]
        colours = ["#b0b7c3" if not row.name.startswith("hardpoint") else "#2563eb" for row in chosen]
        bars = axis.barh([row.name for row in chosen], [row.value for row in chosen], color=colours)
        axis.bar_label(bars, labels=[f" {row.value:.1f} {row.unit}" for row in chosen], fontsize=8)
        axis.set_title(group, loc="left", fontsize=10)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.15)
    figure.tight_layout()
    figure.savefig(folder / f"{name}.png", dpi=150)
