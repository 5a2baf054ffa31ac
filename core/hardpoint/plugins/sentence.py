"""Exceptions of others as one short line."""

from __future__ import annotations

_LONGEST = 300


def one_line(error: BaseException) -> str:
    """Type and message of `error` on one line, cut where it gets too long for a table."""
    if isinstance(error, SystemExit):
        return f"it calls sys.exit({error.code!r})"
    text = " ".join(str(error).split())
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 4]} ..."
