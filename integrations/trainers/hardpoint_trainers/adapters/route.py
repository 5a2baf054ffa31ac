"""`Route`: from a trainer, whose ranks all call it, to the engines: join once, then one transaction per update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from hardpoint.errors import SyncError
from hardpoint.sync import SyncOutcome, UpdateAborted
from hardpoint_trainers.adapters.beside import beside
from hardpoint_trainers.adapters.engines import ServingEngine
from hardpoint_trainers.adapters.publishing import Weights, publish_from
from hardpoint_trainers.adapters.ranks import said_by_one
from hardpoint_trainers.publisher import WeightPublisher

if TYPE_CHECKING:
    import torch.distributed as dist

DEADLINE = 60.0
_AFTERWARDS = 30.0  # seconds that an engine may take to answer once the sender is through


@dataclass
class Route:
    """One trainer rank's part of the way to the engines.

    Args:
        publisher: on the sending rank; None on the others.
        engines: those that this rank talks to, with the rank of each one's first worker among the receivers plus 1 (the
            sender is rank 0). In colocate mode every rank has its own engine process and the offset is 1 on all of
            them, since vLLM counts its workers from the launcher's ranks; with servers the sender has all of them.
        deadline: seconds for joining, each vote and each bucket.
        group: of the trainer's ranks, over which they learn where to meet; None for the default one.
        alone: the other ranks do not call this object (they only help to gather), so nothing is asked of them.
        terms: for the engines, beside what the publisher says in its `init_info`, for example ``transport``.
        after: called on every rank after each committed update, with the outcome on the sending one: probes, metrics.
    """

    publisher: WeightPublisher | None
    engines: Sequence[tuple[ServingEngine, int]]
    deadline: float = DEADLINE
    group: dist.ProcessGroup | None = None
    alone: bool = False
    terms: Mapping[str, Any] = field(default_factory=dict)
    after: list[Callable[[SyncOutcome | None], None]] = field(default_factory=list)
    epoch: int = field(default=0, init=False)
    """Of the last update that committed."""
    _joined: bool = field(default=False, init=False)  # as the sending rank knows it

    def connect(self) -> None:
        """Have the engines meet the publisher if they have not; `send` does it too, and again after a rank was lost.

        Raises:
            SyncError: an engine did not come, with what it says.
        """
        publisher = self.publisher
        mine: dict[str, Any] | None = (
            {"info": publisher.init_info(), "joined": self._joined} if publisher is not None else None
        )
        told = mine if self.alone else said_by_one(mine, self.group)
        if told is None:
            raise SyncError("This rank has no publisher, and there is no group of trainer ranks to ask for one.")
        if told["joined"]:
            return
        info = told["info"]
        joins = [partial(engine.join, info | {**self.terms, "rank_offset": offset}) for engine, offset in self.engines]
        self._together("join", joins, publisher.connect if publisher is not None else None)
        self._joined = publisher is not None

    def send(self, weights: Weights) -> SyncOutcome | None:
        """Publish `weights` and put them live. Call it on every rank of the trainer, in step.

        Returns:
            The outcome on the sending rank, None on the others.

        Raises:
            UpdateAborted, SyncError: the update was refused or a rank was lost; the engines serve their old weights. It
                is raised on the sending rank, and on the others as far as their own engine tells them.
        """
        self.connect()
        epoch = self.epoch + 1
        for engine, _ in self.engines:
            engine.start()
        outcome: list[SyncOutcome | None] = []
        updates = [partial(engine.update, {"epoch": epoch}) for engine, _ in self.engines]
        try:
            self._together("update", updates, lambda: outcome.append(self._publish(weights, epoch)))
        except UpdateAborted as aborted:
            self._joined = self._joined and not aborted.outcome.missing  # else the publisher meets under a new name
            raise
        for engine, _ in self.engines:
            engine.finish()
        self.epoch = epoch
        for call in self.after:
            call(outcome[0])
        return outcome[0]

    def _publish(self, weights: Weights, epoch: int) -> SyncOutcome | None:
        return publish_from(weights, self.publisher, epoch=epoch, deadline=self.deadline)

    def close(self) -> None:
        """Leave the group; the engines go on serving."""
        if self.publisher is not None:
            self.publisher.close()

    def _together(self, what: str, calls: Sequence[Callable[[], None]], own: Callable[[], object] | None) -> None:
        """The engines' calls beside our own. Of several errors ours is raised, with what the engines say."""
        with ExitStack() as stack:
            running = [stack.enter_context(beside(call, f"hardpoint-{what}")) for call in calls]
            try:
                if own is not None:
                    own()
            except UpdateAborted:
                _settle(running, _AFTERWARDS)  # it quotes the engines already; their sessions end with it
                raise
            except SyncError as error:
                said = [str(failure) for future in running if (failure := _failure(future, 1.0)) is not None]
                raise SyncError(f"{error} The engine said: {' / '.join(said)}" if said else str(error)) from error
            for future in running:
                failure = _failure(future, self.deadline + _AFTERWARDS)
                if isinstance(failure, SyncError):
                    raise failure
                if failure is not None:
                    raise SyncError(f"The engine failed in {what}: {type(failure).__name__}: {failure}") from failure


def _failure(future: Future[None], seconds: float) -> BaseException | None:
    try:
        return future.exception(seconds)
    except FutureTimeoutError:  # not the builtin one before Python 3.11
        return SyncError(f"The engine did not answer within {seconds:g} s.")


def _settle(running: Sequence[Future[None]], seconds: float) -> None:
    for future in running:
        _failure(future, seconds)
