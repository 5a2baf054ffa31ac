"""`LawFailed`: what a law raises when it does not hold."""

from __future__ import annotations

from hardpoint.errors import HardpointError


class LawFailed(HardpointError):
    """A law does not hold; the message says what was expected and what was found."""
