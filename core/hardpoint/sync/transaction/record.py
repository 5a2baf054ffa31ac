"""`DecisionRecord`: the one place where a decision is written, once, before anybody acts on it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hardpoint.errors import SyncError


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

    Of two lines on one session the later counts: a commit whose write failed was turned into an abort.

    Raises:
        SyncError: the file holds something else than decisions.
    """

    durable = True

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
            try:
                fields = json.loads(line)
                decision = Decision(
                    str(fields["session"]), int(fields["epoch"]), bool(fields["commit"]), str(fields["reason"])
                )
            except (ValueError, KeyError, TypeError) as error:
                raise SyncError(f"Line {number} of the decision record {path} is not a decision: {error}.") from error
            self._decisions[decision.session] = decision

    def write(self, decision: Decision) -> None:
        """See `DecisionRecord.write`."""
        standing = self.read(decision.session)
        if standing is not None:
            super().write(decision)  # the same again, or refused
            return
        line = json.dumps({"session": decision.session, "epoch": decision.epoch, "commit": decision.commit,
                           "reason": decision.reason})  # fmt: skip
        with self._path.open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        super().write(decision)
