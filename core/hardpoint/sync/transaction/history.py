"""`History`: how this rank voted, and how updates ended here. The last few: whoever asks about one asks soon."""

from __future__ import annotations

from hardpoint.sync.transaction.messages import Step

_KEPT = 8  # updates
UNKNOWN = "never heard of this session; did the rank start again?"


class History:
    """By session. A session that is not in it is unknown, or long ago."""

    def __init__(self) -> None:
        self._ended: dict[str, str] = {}
        self._votes: dict[tuple[str, Step], tuple[bool, str]] = {}

    def end(self, session: str, ending: str) -> None:
        """It is over here, and how."""
        self._ended[session] = ending
        while len(self._ended) > _KEPT:
            del self._ended[next(iter(self._ended))]

    def vote(self, session: str, step: Step, ok: bool, reason: str) -> None:
        """This rank's word on a step; the last one counts."""
        self._votes[session, step] = (ok, reason)
        while len(self._votes) > 3 * _KEPT:
            del self._votes[next(iter(self._votes))]

    def ending(self, session: str) -> str | None:
        """How it ended here; None if it did not."""
        return self._ended.get(session)

    def why_not(self, session: str) -> str:
        """Why nothing can be done for a session that is not open here."""
        return self._ended.get(session, UNKNOWN)

    def word(self, session: str, step: Step) -> tuple[bool | None, str]:
        """The vote, and its reason; None if there was none."""
        return self._votes.get((session, step), (None, ""))
