"""What an explanation consists of."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Origin:
    """One place where something began.

    Attributes:
        title: a few words: what and where.
        evidence: sentences that the reports bear out.
        rule: the rule that it breaks, with the part that keeps it.
        advice: what to do.
        unproven: what the reports leave open about this origin.
    """

    title: str
    evidence: tuple[str, ...]
    rule: str
    advice: str
    unproven: tuple[str, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """The answer to one question.

    Attributes:
        subject: ``nan`` or ``hang``.
        summary: one sentence.
        origins: causes, the earliest first.
        followed: what followed from them, as far as it is on record.
        unproven: what these files cannot show.
        differences: first differences to a clean run, where one was given.
        table: columns and rows of what was read, for people.
    """

    subject: str
    summary: str
    origins: tuple[Origin, ...] = ()
    followed: tuple[str, ...] = ()
    unproven: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Without the table, which repeats what was read."""
        found = asdict(self)
        del found["columns"], found["rows"]
        return found


def rows_in_words(rows: tuple[int, ...] | range) -> str:
    """``(26, 27, 28, 29)`` -> ``"rows 26-29"``; single rows and gaps are listed."""
    parts: list[str] = []
    for row in sorted(rows):
        first, _, last = parts[-1].partition("-") if parts else ("", "", "")
        if parts and row == int(last or first) + 1:
            parts[-1] = f"{first}-{row}"
        else:
            parts.append(str(row))
    if not parts:
        return "no row"
    if len(parts) > 6:
        parts = [*parts[:5], f"... {parts[-1]}"]
    return f"row{'' if len(rows) == 1 else 's'} {', '.join(parts)}"
