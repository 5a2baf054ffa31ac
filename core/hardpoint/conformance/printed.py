"""Judge what a backend printed during a law: text is shown with the law, anything else is a fault."""

from __future__ import annotations

# What a terminal is normally sent: tab, line feed, carriage return, backspace and escape (colours).
_ALLOWED = frozenset("\t\n\r\b\x1b")
_SHOWN = 4000


def garbage(data: bytes) -> str | None:
    """A sentence if `data` is not text, else None."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return (
            f"the backend printed {len(data)} bytes that are not text (byte {error.start} is {data[error.start]:#04x})"
        )
    odd = next((c for c in text if ord(c) < 32 and c not in _ALLOWED), None)
    if odd is not None:
        return f"the backend printed {len(data)} bytes that are not text (control character {ord(odd):#04x})"
    return None


def shown(data: bytes) -> str:
    """The end of what was printed, for people."""
    text = data.decode("utf-8", errors="backslashreplace")
    return text if len(text) <= _SHOWN else f"… ({len(text) - _SHOWN} characters before this)\n{text[-_SHOWN:]}"
