"""Why a name cannot be used, and the table of candidates that every such message ends with."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable

from hardpoint.plugins.candidate import Candidate, State
from hardpoint.plugins.known import KNOWN, find_known


def table(candidates: Iterable[Candidate]) -> str:
    """One line per candidate: name, state, whose it is, reason."""
    rows = [(row.name, row.state.value, row.origin, row.reason) for row in candidates]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    lines = ("  ".join((*map(str.ljust, row[:3], widths), row[3])) for row in rows)
    return textwrap.indent("\n".join(lines), "  ")


def unknown(name: str, candidates: Iterable[Candidate]) -> str:
    """The sentence for a name that nothing here answers to."""
    known = find_known(name)
    if known is not None:
        return f"{name!r} is not installed: {known.remedy}"
    names = {row.name for row in candidates}
    names |= {alias.casefold() for row in candidates if row.info for alias in row.info.aliases}
    names |= {other for entry in KNOWN for other in (entry.name, *entry.aliases)} | {"auto", "off"}
    close = difflib.get_close_matches(name, sorted(names), n=2, cutoff=0.5)
    return f"{name!r} is an unknown name" + (f" (did you mean {' or '.join(close)}?)" if close else "")


def sentence(row: Candidate) -> str:
    """State and reason of one candidate that was asked for."""
    if row.state is State.NOT_INSTALLED:
        return f"{row.name!r} is not installed: {row.reason}"
    return f"{row.name!r} ({row.origin}): {row.state.value}: {row.reason}"
