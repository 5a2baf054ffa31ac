"""The table of backends, shared by ``list``, ``info`` and ``doctor``."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console

from hardpoint.cli.output import print_table
from hardpoint.plugins import Candidate


def print_candidates(
    to: Console, candidates: Iterable[Candidate], chosen: str | None, title: str | None = None
) -> None:
    """One row per candidate; the chosen one is marked with an asterisk."""
    rows = [
        (
            f"{'*' if row.name == chosen and row.available else ' '} {row.name}",
            row.state.value,
            "" if row.info is None else str(row.info.priority),
            row.origin,
            row.reason,
        )
        for row in candidates
    ]
    print_table(to, ("  backend", "state", "prio", "from", "what was found"), rows, title=title)
