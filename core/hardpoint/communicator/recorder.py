"""`FlightRecorder`: the last calls of one communicator, kept in a ring and written out when something goes wrong.

Every call costs two writes into a list (`benchmarks/recorder.py`: well under 2 us); nothing is formatted before it is
asked for. A record is written when a call of this rank fails, and, where a folder for records is set, also when another
rank of the group asks for it, so that the ranks that hang elsewhere are heard too.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SCHEMA = 1
KIND = "flight-record"
RECORDS = "HARDPOINT_RECORDS"
CAPACITY = 256
_FRAMES = 12
_now = time.time_ns

# State of a call. Host collectives are "done" when they return; device ones are "issued" and done later.
ENTERED, ISSUED, DONE, FAILED = "entered", "issued", "done", "failed"


class FlightRecorder:
    """Ring of the last `capacity` calls of one group.

    Args:
        group: name of the communicator or process group.
        rank, world_size: this process's place in it.
        library: what carries the bytes, for people.
        capacity: calls kept.
    """

    def __init__(self, group: str, rank: int, world_size: int, *, library: str = "", capacity: int = CAPACITY) -> None:
        self.group, self.rank, self.world_size, self.library = group, rank, world_size, library
        self._capacity = capacity
        # Tuples in two rings, one for how a call begins and one for how it ends: the cheapest thing that Python can do.
        self._begun: list[tuple[int, str, object, int | None, int] | None] = [None] * capacity
        self._ended: list[tuple[int, str, int, str] | None] = [None] * capacity

    def enter(self, sequence: int, op: str, form: object, stream: int | None = None) -> None:
        """This rank enters call `sequence`: `op` on `form` (text, or anything whose `str` says dtype and shape)."""
        self._begun[sequence % self._capacity] = (sequence, op, form, stream, _now())

    def mark(self, sequence: int, state: str, reason: str = "") -> None:
        """The call is now in `state`; nothing happens if the ring has gone round since."""
        slot = sequence % self._capacity
        known = self._ended[slot]
        if known is None or known[0] <= sequence:
            self._ended[slot] = (sequence, state, _now(), reason)

    def calls(self) -> list[dict[str, Any]]:
        """What is in the ring, oldest first."""
        found = []
        for begun, ended in zip(list(self._begun), list(self._ended), strict=True):
            if begun is None:
                continue
            sequence, op, form, stream, entered = begun
            # An end of another number is that of the call which had the slot before.
            _, state, left, reason = ended if ended is not None and ended[0] == sequence else (0, ENTERED, 0, "")
            found.append(
                {
                    "sequence": sequence,
                    "op": op,
                    "form": str(form),
                    "stream": stream,
                    "state": state,
                    "entered": entered / 1e9,
                    "seconds": (left - entered) / 1e9 if left else None,
                    "reason": reason,
                }
            )
        return sorted(found, key=lambda call: call["sequence"])

    def as_record(self, why: str) -> dict[str, Any]:
        """The record as it is written: calls, who wrote it when and why, and where every thread of the process is."""
        return {
            "schema": SCHEMA,
            "kind": KIND,
            "group": self.group,
            "rank": self.rank,
            "world_size": self.world_size,
            "library": self.library,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "written": time.time(),
            "why": why,
            "calls": self.calls(),
            "threads": _threads(),
        }

    def write(self, folder: Path, why: str) -> Path:
        """Write the record into `folder`, over an earlier one of this group and process.

        Raises:
            OSError: the folder cannot be made or written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in self.group)
        path = folder / f"{name}-rank{self.rank}-{os.getpid()}.json"
        beside = path.with_suffix(f".{threading.get_ident()}.part")
        beside.write_text(json.dumps(self.as_record(why), indent=1))
        beside.replace(path)
        return path

    def write_if_asked(self, why: str, environment: Mapping[str, str] | None = None) -> str:
        """Write into the folder of ``HARDPOINT_RECORDS`` and say where; where it is unset, say how to get a record."""
        folder = records_folder(environment)
        if folder is None:
            return f"For a record of the last calls of every rank set {RECORDS} to a folder."
        try:
            path = self.write(folder, why)
        except OSError as error:
            return f"No record could be written into {RECORDS}={folder}: {error}."
        return f"The last calls are in {path}; `hardpoint explain hang {folder}` reads those of all ranks together."


def records_folder(environment: Mapping[str, str] | None = None) -> Path | None:
    """The folder of ``HARDPOINT_RECORDS``, None if it is unset."""
    text = (os.environ if environment is None else environment).get(RECORDS, "").strip()
    return Path(text) if text else None


def _threads() -> dict[str, list[str]]:
    """Thread name -> its innermost frames, outermost of them first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return {
        names.get(ident, str(ident)): [
            f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_stack(top)[-_FRAMES:]
        ]
        for ident, top in sys._current_frames().items()
        if ident != threading.get_ident() or names.get(ident) == "MainThread"
    }
