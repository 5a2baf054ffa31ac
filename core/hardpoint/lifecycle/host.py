"""What `Lifecycle` needs from those around it: the engine that serves, and a way to vote."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from hardpoint.communicator.protocol import Verdict


class Host(Protocol):
    """The engine. Every call has to end within `deadline` seconds or raise; each may be called twice."""

    def close_admission(self) -> None:
        """Take no new requests."""
        ...

    def drain(self, deadline: float) -> None:
        """Finish or abort everything in flight: requests, batch queue, pipeline sends."""
        ...

    def resume(self, lost: Collection[str]) -> None:
        """Every rank is mapped: bring communicators and threads back, forget what was cached in the tags `lost`."""
        ...

    def open_admission(self) -> None:
        """Take requests again."""
        ...


class IdleHost:
    """An engine that serves nothing: there is nothing to close or to drain."""

    def close_admission(self) -> None: ...
    def drain(self, deadline: float) -> None: ...
    def resume(self, lost: Collection[str]) -> None: ...
    def open_admission(self) -> None: ...


class Voter(Protocol):
    """The part of `hardpoint.communicator.Communicator` that `Lifecycle` uses; it has to work while memory sleeps."""

    @property
    def rank(self) -> int: ...

    def vote(
        self, ok: bool, subject: str, *, reason: str = "", digest: str = "", deadline: float | None = None
    ) -> Verdict: ...


class AloneVoter:
    """The vote of a single rank."""

    rank = 0

    def vote(
        self, ok: bool, subject: str, *, reason: str = "", digest: str = "", deadline: float | None = None
    ) -> Verdict:
        return Verdict(ok, subject, {} if ok else {0: reason}, ())
