"""`Mode`: what keeps the old weights until every rank has agreed, and which one fits."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hardpoint.errors import SyncError


class Mode(str, Enum):
    """How an update is staged.

    ``shadow``: in a second copy on the device; the engine serves until the commit. ``undo``: in place, overwritten
    slices kept in host memory; the engine serves nothing while it streams. ``off``: in place and nothing is kept; not
    atomic, only by name. ``auto``: shadow if it fits, else undo if it fits, else the update is refused.
    """

    SHADOW = "shadow"
    UNDO = "undo"
    OFF = "off"
    AUTO = "auto"


@dataclass(frozen=True)
class Room:
    """Bytes that a rank can give an update: on its device, and in (pinned) host memory."""

    device: int
    host: int


@dataclass(frozen=True)
class Choice:
    """The mode that a rank takes, the bytes that it costs, and a sentence for the log."""

    mode: Mode
    nbytes: int
    sentence: str


def choose_mode(asked: Mode, nbytes: int, room: Room) -> Choice:
    """Pick a mode for a rank whose parameters have `nbytes`. Pure.

    Raises:
        SyncError: what was asked for does not fit; it says what is needed, what there is, and what would fit.
    """
    if asked is Mode.OFF:
        return Choice(Mode.OFF, 0, "weights are overwritten in place and nothing is kept, as asked")
    fits = {Mode.SHADOW: nbytes <= room.device, Mode.UNDO: nbytes <= room.host}
    where = {
        Mode.SHADOW: f"a second copy of {nbytes} bytes on the device ({room.device} free)",
        Mode.UNDO: f"{nbytes} bytes of overwritten values in host memory ({room.host} free)",
    }
    for mode in (Mode.SHADOW, Mode.UNDO) if asked is Mode.AUTO else (asked,):
        if fits[mode]:
            return Choice(mode, nbytes, f"mode {mode.value}: {where[mode]}")
    wanted = " nor ".join(where.values()) if asked is Mode.AUTO else where[asked]
    other = next((mode for mode in fits if fits[mode]), None)
    hint = f"mode {other.value} would fit" if other is not None else "free memory, or ask for mode off by name"
    raise SyncError(f"Mode {asked.value} does not fit: no room for {wanted}; {hint}.")
