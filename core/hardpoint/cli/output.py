"""Output for people (tables) and for programs (JSON with a schema version)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

SCHEMA = 1
_COLOURS = {
    "available": "green",
    "no device": "yellow",
    "not installed": "dim",
    "not allowed": "yellow",
    "error": "bold red",
    "warning": "yellow",
    "note": "cyan",
}


def print_json(kind: str, **fields: Any) -> None:
    """One JSON object on stdout. `schema` grows when a field changes its meaning or goes; new fields may come."""
    json.dump({"schema": SCHEMA, "kind": kind, **fields}, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")


def console() -> Console:
    """For stdout."""
    return Console(highlight=False)


def print_block(to: Console, heading: str, lines: Iterable[str]) -> None:
    """A heading and what belongs to it, indented; wrapped at a terminal's width, never elsewhere."""
    print_line(to, heading, 2)
    for line in filter(None, lines):
        print_line(to, line, 6)


def print_line(to: Console, line: str, indent: int = 0) -> None:
    """One line of text, indented; wrapped at a terminal's width, never elsewhere."""
    if to.is_terminal:
        to.print(Padding(Text(line, overflow="fold"), (0, 0, 0, indent)))
    else:
        to.out(" " * indent + line, highlight=False)


def print_table(
    to: Console, columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None
) -> None:
    """Aligned columns. At a terminal the last takes what is left of the width; elsewhere nothing wraps, for grep."""
    if title:
        to.print(Text(title, style="bold"))
    rows = list(rows)
    if not to.is_terminal:
        lines = [columns, *rows] if any(columns) else rows
        widths = [max((len(line[column]) for line in lines), default=0) for column in range(len(columns))]
        for line in lines:
            to.out("  ".join(map(str.ljust, line, widths)).rstrip(), highlight=False)
        return
    table = Table(box=None, pad_edge=False, show_header=any(columns), header_style="dim", padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        last = number == len(columns) - 1
        table.add_column(column, overflow="fold", no_wrap=number == 0, ratio=1 if last else None)
    for row in rows:
        table.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
    to.print(table)
