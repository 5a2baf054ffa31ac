"""How long a rank waits for what, in seconds, from the deadline that the trainer stated."""

from __future__ import annotations


def silent_for(deadline: float) -> float:
    """A vote may take its whole deadline and then some asking around, and nothing is sent meanwhile."""
    return deadline + 1.0


def ask_after(deadline: float) -> float:
    """After its yes a rank waits this long for the decision, then asks the trainer itself."""
    return deadline + 1.5


def in_doubt_after(deadline: float) -> float:
    """And this long until it gives up: it is FAILED, since its peers may have the new weights."""
    return deadline + 3.0
