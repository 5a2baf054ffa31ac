"""`DecisionRecord`: the one place where a decision is written, once, before anybody acts on it."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hardpoint.errors import SyncError

_logger = logging.getLogger("hardpoint.sync")
_BEGINS = '{"session": "'  # as every line does


@dataclass(frozen=True)
class Decision:
    """What was decided on a session, and why if it was not to commit."""

    session: str
    epoch: int
    commit: bool
    reason: str = ""


class DecisionRecord(Protocol):
    """Laws: what was written is read, until the record itself is lost; a second decision on a session is refused.

    Attributes:
        durable: it outlives the trainer's process, so that a session without an entry was never committed.
    """

    @property
    def durable(self) -> bool: ...

    def write(self, decision: Decision) -> None:
        """Write a decision. SyncError if another one stands for its session."""
        ...

    def read(self, session: str) -> Decision | None:
        """The decision on a session, None if there is none."""
        ...


class MemoryRecord:
    """Lives and dies with the trainer's process."""

    durable = False

    def __init__(self) -> None:
        self._decisions: dict[str, Decision] = {}

    def write(self, decision: Decision) -> None:
        """See `DecisionRecord.write`."""
        standing = self._decisions.setdefault(decision.session, decision)
        if standing.commit != decision.commit:
            raise SyncError(
                f"Session {decision.session} is already decided: {'commit' if standing.commit else 'abort'} of epoch "
                f"{standing.epoch}."
            )

    def read(self, session: str) -> Decision | None:
        """See `DecisionRecord.read`."""
        return self._decisions.get(session)


class FileRecord(MemoryRecord):
    """One JSON line for each decision, on the disk before `write` returns; a trainer that starts again reads it.

    Of two lines on one session the later counts: a commit whose write failed was turned into an abort. A line that was
    begun and not finished (the trainer died, or the disk was full, while it was written) is no decision: nobody has
    acted on it.

    Raises:
        SyncError: the file cannot be read, or holds something else than decisions.
    """

    durable = True

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        for number, line in enumerate(_lines(path), 1):
            decision = _decision(line, f"Line {number} of the decision record {path}")
            if decision is None:
                _logger.warning("hardpoint: line %d of the decision record %s was never finished", number, path)
            else:
                self._decisions[decision.session] = decision

    def write(self, decision: Decision) -> None:
        """See `DecisionRecord.write`."""
        standing = self.read(decision.session)
        if standing is not None:
            super().write(decision)  # the same again, or refused
            return
        line = json.dumps({"session": decision.session, "epoch": decision.epoch, "commit": decision.commit,
                           "reason": decision.reason})  # fmt: skip
        new = not self._path.exists()
        with self._path.open("a+b") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
            after_a_torn_line = end and file.read(1) != b"\n"
            file.write((b"\n" if after_a_torn_line else b"") + line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if new:
            _sync_folder(self._path.parent)
        super().write(decision)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise SyncError(f"The decision record {path} cannot be read: {error}.") from error


def _decision(line: str, where: str) -> Decision | None:
    """None for a line that was not finished."""
    try:
        fields = json.loads(line)
    except ValueError as error:
        if line.startswith(_BEGINS[: len(line)]):
            return None
        raise SyncError(f"{where} is not a decision: {error}.") from error
    try:
        decision = Decision(fields["session"], fields["epoch"], fields["commit"], fields["reason"])
    except (KeyError, TypeError) as error:
        raise SyncError(f"{where} is not a decision: {type(error).__name__}: {error}.") from error
    kinds = [type(one) for one in (decision.session, decision.epoch, decision.commit, decision.reason)]
    if kinds != [str, int, bool, str]:
        raise SyncError(f"{where} is not a decision: {line!a:.80}.")
    return decision


def _sync_folder(folder: Path) -> None:
    """A new file is on the disk when its folder is."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
