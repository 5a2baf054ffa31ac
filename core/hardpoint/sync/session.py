"""The steps that sender and receivers take together, and how any of them ends the update for all.

    open    vote        everybody is here and speaks this protocol; nobody is waited for in a collective before that
    header  broadcast   session id, epoch, length of the manifest; then a vote: everybody could read it
    begin   broadcast   the manifest; then a vote: same digest everywhere, every receiver accepts it and has room
    stream  broadcasts  one message per bucket, then the digests; the sender may put an abort in place of any of them
    commit  vote        every receiver holds every tensor with the sender's digest

A vote that is not unanimous ends the update everywhere. A rank that cannot go on keeps taking part in the broadcasts
and says no in the next vote, so that nobody waits for it; one that is dead is named when the deadline of the call ends.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from hardpoint.errors import CommunicatorError, DeadlineExceeded, HardpointError
from hardpoint.sync.frame import PROTOCOL
from hardpoint.sync.outcome import SyncOutcome

if TYPE_CHECKING:
    import torch

    from hardpoint.communicator import Communicator

_REASON_LIMIT = 2000
FOLLOWED = "followed the sender's abort"  # no news: left out where somebody says why


class Aborted(HardpointError):
    """Ends a session inside this package; callers get a `SyncOutcome`."""

    def __init__(
        self,
        reason: str,
        *,
        objections: dict[int, str] | None = None,
        missing: tuple[int, ...] = (),
        undecided: bool = False,
    ) -> None:
        super().__init__(reason)
        self.undecided = undecided
        self.objections = objections or {}
        self.missing = missing


@dataclass
class Session:
    """One update as one rank goes through it. `deadline`: seconds for each vote and each broadcast."""

    communicator: Communicator
    src: int
    deadline: float | None
    step: str = "open"
    epoch: int = -1
    manifest_digest: str = ""
    bytes: int = 0
    started: float = field(default_factory=time.monotonic)

    def open(self, ok: bool = True, reason: str = "", *, deadline: float | None = None) -> None:
        """Take part in the first vote, which may have a longer `deadline` of its own: it waits for the sender."""
        self.step = "open"
        self._vote("sync.open", ok, reason, f"hardpoint-sync/{PROTOCOL}", deadline)

    def vote(self, step: str, ok: bool, reason: str = "", digest: str = "") -> None:
        """Raise `Aborted`, the same on every rank, unless all say yes and bring the same digest."""
        self.step = step
        self._vote(f"sync.{step}", ok, reason, digest, None)

    def refuse(self, step: str, reason: str) -> NoReturn:
        """Say no in the vote that ends `step`; raises the `Aborted` that every rank gets."""
        self.vote(step, False, reason)
        raise AssertionError("a vote with an objection was called unanimous")

    def object_to(self, step: str, error: BaseException) -> None:
        """Say no on behalf of an exception that the caller raises again once the others know."""
        with contextlib.suppress(Aborted):  # always, since this rank objects
            if step == "open":
                self.open(False, describe(error))
            self.vote(step, False, describe(error))

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Broadcast from the sender; `Aborted` with the absent ranks if it fails or its deadline passes."""
        try:
            self.communicator.broadcast(tensor, src=self.src, deadline=self.deadline)
        except CommunicatorError as error:
            raise self._lost(error) from error

    def end(self, aborted: Aborted | None = None, tensors: tuple[str, ...] = ()) -> SyncOutcome:
        """The outcome, committed unless `aborted` is given."""
        return SyncOutcome(
            committed=aborted is None,
            epoch=self.epoch,
            step=self.step,
            reason=str(aborted) if aborted else "",
            undecided=aborted.undecided if aborted else False,
            objections=aborted.objections if aborted else {},
            missing=aborted.missing if aborted else (),
            tensors=tensors,
            manifest_digest=self.manifest_digest,
            bytes=self.bytes,
            seconds=time.monotonic() - self.started,
        )

    def _vote(self, subject: str, ok: bool, reason: str, digest: str, deadline: float | None) -> None:
        try:
            verdict = self.communicator.vote(
                ok, subject, reason=reason[:_REASON_LIMIT], digest=digest, deadline=deadline or self.deadline
            )
        except CommunicatorError as error:
            raise self._lost(error, undecided=ok and self.step == "commit") from error
        if verdict.unanimous:
            return
        telling = {rank: text for rank, text in sorted(verdict.objections.items()) if text != FOLLOWED}
        objections = telling or dict(verdict.objections)
        sentences = [f"{self._who(rank)}: {text}" for rank, text in objections.items()]
        sentences += [f"{self._who(rank)} did not answer within the deadline" for rank in verdict.missing]
        raise Aborted("; ".join(sentences), objections=objections, missing=tuple(verdict.missing))

    def _lost(self, error: CommunicatorError, undecided: bool = False) -> Aborted:
        missing = error.missing if isinstance(error, DeadlineExceeded) else ()
        names = ", ".join(self._who(rank) for rank in missing)
        return Aborted(f"lost {names}: {error}" if names else str(error), missing=missing, undecided=undecided)

    def _who(self, rank: int) -> str:
        return f"rank {rank} (the sender)" if rank == self.src else f"rank {rank}"


def describe(error: BaseException) -> str:
    """One line for the other ranks about what went wrong here."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
