"""Run laws in warm worker processes: several at once, each under a deadline, none able to stop the others.

A worker that hangs, dies or stops making sense is ended and replaced; the law it ran fails with the reason.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType

from hardpoint.conformance.channel import Garbled
from hardpoint.conformance.messages import Describe, Description, Done, Dying, Ready, Run, Started
from hardpoint.conformance.printed import garbage, shown
from hardpoint.conformance.process import WorkerProcess
from hardpoint.conformance.source import BackendSource

START_DEADLINE = 180.0  # importing torch on a machine that is busy with something else
BUILD_DEADLINE = 120.0  # a first device context, or a plugin that compiles
GRACE = 3.0  # for the other ranks to say what they saw, after one has failed
_HOST = "127.0.0.1"
# torch's store asks for the name of every peer that connects, only to log it. A name server that drops the question
# holds up the connection for the resolver's 5 s, in the middle of a law that times deadlines.
_RESOLVER = "timeout:1 attempts:1"


@dataclass(frozen=True)
class Job:
    """One run of one law in one world size; `law` None asks the backend to describe itself.

    `alone`: with several ranks, it runs beside no other world, because it times deadlines: two ranks beside jobs of one
    rank that leave them a core, more ranks beside nothing.
    `effort` is the part of its drawn examples that the law runs; cases that it states itself are never left out.
    """

    source: BackendSource
    law: str | None
    ranks: int = 1
    seed: int = 0
    deadline: float = 60.0
    effort: float = 1.0
    alone: bool = True


@dataclass(frozen=True)
class Outcome:
    """What came of a job. `failure` is None if the law held."""

    job: Job
    failure: str | None
    traceback: str = ""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    printed: str = ""
    description: Description | None = None
    unavailable: bool = False  # no backend of that name can be chosen here


@dataclass
class _Rank:
    worker: WorkerProcess
    done: Done | None = None
    started: bool = False
    dying: bool = False
    lost: bool = False  # hung, dead or senseless: the worker is not used again
    printed: bytes = b""


@dataclass
class _Active:
    job: Job
    ranks: list[_Rank]
    began: float = field(default_factory=time.monotonic)
    started: float | None = None
    failed: float | None = None


class Pool:
    """Warm workers. A context manager; leaving it ends every process that it started."""

    def __init__(self, *, slots: int | None = None) -> None:
        self.slots = slots or max(1, min(4, os.cpu_count() or 1))
        self._directory = tempfile.TemporaryDirectory(prefix="hardpoint-conformance-")
        self._numbers = itertools.count()
        self._runs = itertools.count()
        self._idle: list[WorkerProcess] = []
        self._active: list[_Active] = []
        self._address = (_HOST, 0)

    def __enter__(self) -> Pool:
        from hardpoint.sync.rendezvous import serve_store

        os.environ.setdefault("RES_OPTIONS", _RESOLVER)  # the workers inherit it
        # Hosted here and not by rank 0, so that it outlives every rank.
        self._store = serve_store(_HOST)
        self._address = (_HOST, self._store.port)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for active in self._active:
            self._idle += [rank.worker for rank in active.ranks]
        for worker in self._idle:
            worker.kill()
        self._idle, self._active = [], []
        del self._store
        self._directory.cleanup()

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Run all jobs and give each outcome as it comes.

        Pairs that time deadlines mostly sleep, so they come first, with the jobs of one rank beside them; then what is
        left, smaller worlds first.
        """
        ordered = sorted(jobs, key=lambda job: job.ranks)
        pairs = deque(job for job in ordered if job.ranks == 2 and job.alone)
        pending = deque(job for job in ordered if job.ranks != 2 or not job.alone)
        self._warm(pairs, pending)
        while pairs or pending or self._active:
            while (
                queue := next((queue for queue in (pairs, pending) if queue and self._fits(queue[0])), None)
            ) is not None:
                self._begin(queue.popleft())
                self._warm(pairs, pending)
            wait(
                [rank.worker.channel.fileno() for active in self._active for rank in active.ranks if _open(rank)], 0.05
            )
            for active in list(self._active):
                self._advance(active)
                if all(not _open(rank) for rank in active.ranks):
                    self._active.remove(active)
                    yield self._finish(active)

    def _warm(self, *queues: deque[Job]) -> None:
        """Start workers ahead of need: importing torch takes seconds, and other laws run meanwhile."""
        ranks = [job.ranks for queue in queues for job in queue]
        wanted = max(min(self.slots, ranks.count(1)), max(ranks, default=0))
        while len(self._idle) + sum(len(active.ranks) for active in self._active) < wanted:
            self._idle.append(self._start())

    def _start(self) -> WorkerProcess:
        return WorkerProcess(Path(self._directory.name) / f"worker-{next(self._numbers)}.out", self._address)

    def _fits(self, job: Job) -> bool:
        running = [active.job for active in self._active]
        if not running:
            return True
        worlds = [other for other in (*running, job) if other.ranks > 1]
        singles = len(running) + 1 - len(worlds)
        if any(world.alone for world in worlds):
            return len(worlds) == 1 and worlds[0].ranks == 2 and singles < self.slots
        if not worlds:
            return singles <= self.slots
        # Ranks mostly wait for each other, so two of them keep a core busy.
        return sum(other.ranks for other in running) + job.ranks <= 2 * self.slots

    def _begin(self, job: Job) -> None:
        for worker in [worker for worker in self._idle if worker.death() is not None]:
            self._idle.remove(worker)
            worker.kill()
        self._idle.sort(key=lambda worker: worker.began)  # the warmest first
        while len(self._idle) < job.ranks:
            self._idle.append(self._start())
        taken, self._idle = self._idle[: job.ranks], self._idle[job.ranks :]
        run = next(self._runs)
        for rank, worker in enumerate(taken):
            if job.law is None:
                worker.send(Describe(job.source))
            else:
                worker.send(Run(job.source, job.law, job.seed, run, rank, job.ranks, job.deadline, job.effort))
        self._active.append(_Active(job, [_Rank(worker) for worker in taken]))

    def _advance(self, active: _Active) -> None:
        """Take in what the ranks said, and judge the ones that say nothing."""
        now = time.monotonic()
        for rank in active.ranks:
            while _open(rank):
                try:
                    message = rank.worker.receive()
                except EOFError as error:
                    self._lose(active, rank, _last_words(rank.worker, error))
                    break
                if message is None:
                    break
                if isinstance(message, Ready):
                    rank.worker.ready = True
                    active.began = now
                elif isinstance(message, Started):
                    rank.started, active.started = True, now
                elif isinstance(message, Dying):
                    rank.dying = True
                else:
                    self._close(active, rank, message)
            if _open(rank):
                self._judge(active, rank, now)

    def _judge(self, active: _Active, rank: _Rank, now: float) -> None:
        deadline = active.job.deadline
        if rank.worker.flooding():
            self._lose(active, rank, "the backend printed more than 8 MiB")
        elif active.failed is not None and now > active.failed + GRACE:
            self._lose(active, rank, f"still waiting {GRACE:g} s after another rank had failed")
        elif not rank.worker.ready and now > rank.worker.began + START_DEADLINE:
            self._lose(active, rank, f"the worker process did not start within {START_DEADLINE:g} s")
        elif rank.worker.ready and not rank.started and now > active.began + BUILD_DEADLINE:
            self._lose(active, rank, f"building the backend took more than {BUILD_DEADLINE:g} s")
        elif rank.started and active.started is not None and now > active.started + deadline:
            self._lose(active, rank, f"it did not end within its deadline of {deadline:g} s")

    def _lose(self, active: _Active, rank: _Rank, reason: str) -> None:
        rank.lost = True
        self._close(active, rank, Done(None if rank.dying else reason, seconds=time.monotonic() - active.began))

    def _close(self, active: _Active, rank: _Rank, done: Done) -> None:
        rank.printed = rank.worker.printed()
        odd = garbage(rank.printed)
        if done.failure is None and odd is not None:
            done = Done(odd, done.traceback, done.notes, done.seconds, done.description)
        rank.done = done
        if done.failure is not None and active.failed is None:
            active.failed = time.monotonic()
        if rank.lost:
            rank.worker.kill()
        else:
            self._idle.append(rank.worker)

    def _finish(self, active: _Active) -> Outcome:
        several = len(active.ranks) > 1
        answers = [rank.done for rank in active.ranks if rank.done is not None]
        failures = [
            f"rank {number} of {len(answers)}: {answer.failure}" if several else answer.failure
            for number, answer in enumerate(answers)
            if answer.failure is not None
        ]
        # A rank that was only still waiting explains nothing; it comes last.
        failures.sort(key=lambda text: "after another rank had failed" in text or "did not end within" in text)
        return Outcome(
            active.job,
            "; ".join(failures) or None,
            "\n".join(answer.traceback for answer in answers if answer.traceback),
            tuple(dict.fromkeys(note for answer in answers for note in answer.notes)),
            max(answer.seconds for answer in answers),
            "".join(
                f"[rank {number}] {shown(rank.printed)}" if several else shown(rank.printed)
                for number, rank in enumerate(active.ranks)
                if rank.printed
            ),
            answers[0].description,
            any(answer.unavailable for answer in answers),
        )


def _open(rank: _Rank) -> bool:
    return rank.done is None


def _last_words(worker: WorkerProcess, error: EOFError) -> str:
    # The channel closes a moment before the exit code is there; a garbled one needs no waiting.
    end = time.monotonic() + (0.0 if isinstance(error, Garbled) else 2.0)
    while True:
        if (death := worker.death()) is not None:
            return death
        if time.monotonic() >= end:
            return f"the worker process stopped answering: {error}"
        time.sleep(0.01)
