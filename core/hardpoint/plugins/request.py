"""What ``HARDPOINT_BACKEND`` may say, taken apart. Pure text: nothing is looked up here."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from hardpoint.environment import BACKEND
from hardpoint.errors import BackendUnavailable

AUTO = "auto"
OFF = "off"


@dataclass(frozen=True)
class Choice:
    """One name with its profile: ``sim:xpu`` is ``Choice("sim", "xpu")``."""

    name: str
    profile: str | None = None

    @property
    def options(self) -> MappingProxyType[str, Any]:
        """For `hardpoint_backend`."""
        return MappingProxyType({} if self.profile is None else {"profile": self.profile})

    def __str__(self) -> str:
        return self.name if self.profile is None else f"{self.name}:{self.profile}"


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        text: as given, for messages.
        asked_by: who said it, for messages: ``HARDPOINT_BACKEND`` or ``get_backend``.
        choices: in the stated order; empty means auto.
        off: nothing is wanted.
    """

    text: str
    asked_by: str
    choices: tuple[Choice, ...] = ()
    off: bool = False

    @property
    def auto(self) -> bool:
        return not self.choices and not self.off

    def __str__(self) -> str:
        return f"{self.asked_by}={self.text!r}" if self.asked_by == BACKEND else f"{self.asked_by}({self.text!r})"


def parse_request(text: str | None, asked_by: str = BACKEND) -> Request:
    """Take `text` apart: None, empty or ``auto``; ``off``; a name; ``name:profile``; or an order with commas.

    Raises:
        BackendUnavailable: an empty place in an order, an empty profile, or ``auto`` or ``off`` inside an order.
    """
    given = (text or "").strip()
    folded = given.casefold()
    if folded in ("", AUTO):
        return Request(given or AUTO, asked_by)
    if folded == OFF:
        return Request(given, asked_by, off=True)
    shown = Request(given, asked_by)
    choices = tuple(_choice(part, shown) for part in given.split(","))
    return Request(given, asked_by, choices)


def _choice(part: str, shown: Request) -> Choice:
    name, colon, profile = (piece.strip() for piece in part.partition(":"))
    name = name.casefold()
    if not name:
        raise BackendUnavailable(f"{shown} has an empty name in it: write names with single commas, such as cuda,cpu.")
    if name in (AUTO, OFF):
        raise BackendUnavailable(
            f"{shown}: {name!r} stands alone, without an order and without a profile; it cannot be part of a list."
        )
    if colon and not profile:
        raise BackendUnavailable(f"{shown}: the colon after {name!r} should be followed by a profile, such as sim:xpu.")
    return Choice(name, profile or None)
