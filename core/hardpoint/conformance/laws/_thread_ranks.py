"""An engine of several ranks inside one process: threads, a vote between them, and parts that follow a script.

Real ranks are processes, and the laws that need them have them. What a `Lifecycle` does when one of its steps raises,
hangs or comes late has hundreds of cases, and here each of them takes milliseconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from hardpoint.communicator.protocol import Verdict
from hardpoint.conformance.context import LawContext
from hardpoint.conformance.failure import LawFailed
from hardpoint.errors import LifecycleError
from hardpoint.lifecycle import Deadlines, Health, Holding, Lifecycle, LifecycleParts

TAGS = ("experts", "kv_cache", "weights")
VOLATILE = frozenset({"kv_cache"})
PATIENT = Deadlines(steps=4.0, vote=4.0)
LATE = 0.1
PROMPT = 3.0  # seconds within which an operation in which nothing hangs has to end, with much room


class PlantedError(RuntimeError):
    """What a scripted step raises."""


@dataclass(frozen=True)
class Fault:
    """What the script does to one step of one rank.

    Attributes:
        rank, step: where; a step is a method of the memory, the host or the device, for example ``"unmap"``.
        how: ``"raise"``, ``"hang"`` (until the engine is let go), ``"late"`` (0.1 s), ``"corrupt first"`` or
            ``"corrupt last"`` (a restore that brings other contents than were saved, under one tag).
        always: at every call, not only at the first one.
    """

    rank: int
    step: str
    how: str = "raise"
    always: bool = False


@dataclass(frozen=True)
class Entry:
    """One step that a rank carried out; times from `time.monotonic`, `end` is infinite until it has returned."""

    rank: int
    step: str
    begin: float
    end: float = float("inf")
    tags: tuple[str, ...] = ()


class Script:
    """Notes every step of every rank, and plants the faults. `watch` is called at the begin of each step."""

    def __init__(self, faults: Collection[Fault] = ()) -> None:
        self.faults = list(faults)
        self.entries: list[Entry] = []
        self.watch: Callable[[int, str], None] = lambda rank, step: None
        self._lock = threading.Lock()
        self._let_go = threading.Event()

    @contextmanager
    def step(self, rank: int, name: str, tags: Sequence[str] = ()) -> Iterator[str]:
        """Around one step; gives how it is to go wrong, ``""`` if not at all. PlantedError where it has to raise."""
        with self._lock:
            fault = next((fault for fault in self.faults if (fault.rank, fault.step) == (rank, name)), None)
            if fault is not None and not fault.always:
                self.faults.remove(fault)
            place = len(self.entries)
            self.entries.append(Entry(rank, name, time.monotonic(), tags=tuple(tags)))
        self.watch(rank, name)
        how = "" if fault is None else fault.how
        if how == "raise":
            raise PlantedError(f"planted in {name}")
        if how == "hang":
            self._let_go.wait(30.0)
        if how == "late":
            time.sleep(LATE)
        yield how
        with self._lock:
            entry = self.entries[place]
            self.entries[place] = Entry(rank, name, entry.begin, time.monotonic(), entry.tags)

    def let_go(self) -> None:
        """End every step that hangs."""
        self._let_go.set()

    def of(self, rank: int, *steps: str) -> list[Entry]:
        """What the rank did, in order; all steps, or those named."""
        with self._lock:
            return [entry for entry in self.entries if entry.rank == rank and (not steps or entry.step in steps)]

    def clear(self) -> None:
        with self._lock:
            self.entries.clear()


class ScriptedMemory:
    """A `MemoryMap` over Python bytes that refuses whatever the protocol forbids."""

    def __init__(self, script: Script, rank: int, tags: Sequence[str]) -> None:
        self._script, self._rank = script, rank
        self.contents = {tag: bytes([number + 1, rank + 1] * 8) for number, tag in enumerate(tags)}
        self.is_mapped = dict.fromkeys(tags, True)
        self.saved: dict[str, bytes] = {}

    def pool(self, tag: str, device_index: int = 0) -> Any:
        raise NotImplementedError("a lifecycle puts nothing under a tag")

    def adopt(self, tag: str, tensors: Mapping[str, torch.Tensor]) -> None:
        raise NotImplementedError("a lifecycle puts nothing under a tag")

    def tags(self) -> tuple[str, ...]:
        return tuple(self.contents)

    def mapped(self, tag: str) -> bool:
        self._known([tag])
        return self.is_mapped[tag]

    def save(self, tags: Sequence[str]) -> None:
        with self._script.step(self._rank, "save", tags):
            self._need_mapped("save", tags)
            self.saved.update({tag: self.contents[tag] for tag in tags})

    def unmap(self, tags: Sequence[str]) -> None:
        with self._script.step(self._rank, "unmap", tags):
            for tag in self._known(tags):
                if self.is_mapped[tag]:
                    self.is_mapped[tag], self.contents[tag] = False, b"\xff" * 16

    def map(self, tags: Sequence[str]) -> None:
        with self._script.step(self._rank, "map", tags):
            for tag in self._known(tags):
                if not self.is_mapped[tag]:
                    self.is_mapped[tag], self.contents[tag] = True, b"\xaa" * 16

    def restore(self, tags: Sequence[str]) -> None:
        with self._script.step(self._rank, "restore", tags) as how:
            self._need_mapped("restore", tags)
            absent = [tag for tag in tags if tag not in self.saved]
            if absent:
                raise LifecycleError(f"{absent[0]} was not saved")
            self.contents.update({tag: self.saved[tag] for tag in tags})
            if how.startswith("corrupt"):
                tag = tags[0] if how == "corrupt first" else tags[-1]
                self.contents[tag] = self.contents[tag][:-1] + b"\x00"

    def discard(self, tags: Sequence[str]) -> None:
        with self._script.step(self._rank, "discard", tags):
            for tag in self._known(tags):
                self.saved.pop(tag, None)

    def digest(self, tags: Sequence[str]) -> dict[str, str]:
        with self._script.step(self._rank, "digest", tags):
            self._need_mapped("digest", tags)
            return {f"{tag}/all": self.contents[tag].hex() for tag in tags}

    def holders(self) -> list[Holding]:
        return [Holding(t, 16, "scripted", self.is_mapped[t], t in self.saved, "all") for t in self.contents]

    def _known(self, tags: Sequence[str]) -> Sequence[str]:
        for tag in tags:
            if tag not in self.contents:
                raise LifecycleError(f"no memory under {tag}; known tags: {', '.join(self.contents)}")
        return tags

    def _need_mapped(self, step: str, tags: Sequence[str]) -> None:
        for tag in self._known(tags):
            if not self.is_mapped[tag]:
                raise LifecycleError(f"{step}: {tag} is not mapped")


@dataclass
class ScriptedHost:
    """An engine that notes what is asked of it.

    Attributes:
        admits: requests are taken.
        drains: the deadlines that `drain` was given.
        lost: what `resume` was told, call by call.
    """

    script: Script
    rank: int
    admits: bool = True
    drains: list[float] = field(default_factory=list)
    lost: list[tuple[str, ...]] = field(default_factory=list)

    def close_admission(self) -> None:
        with self.script.step(self.rank, "close_admission"):
            self.admits = False

    def drain(self, deadline: float) -> None:
        with self.script.step(self.rank, "drain"):
            self.drains.append(deadline)

    def resume(self, lost: Collection[str]) -> None:
        with self.script.step(self.rank, "resume"):
            self.lost.append(tuple(lost))

    def open_admission(self) -> None:
        with self.script.step(self.rank, "open_admission"):
            self.admits = True


class ScriptedDevice:
    """The backend's device; `synchronize` is noted, as a step only where it is for the rank's own device."""

    def __init__(self, base: Any, script: Script, rank: int, index: int) -> None:
        self._base, self._script, self._rank, self._index = base, script, rank, index

    def synchronize(self, index: int | None = None) -> None:
        place = self._base.current() if index is None else index
        name = "synchronize" if place == self._index else f"synchronize device {place}"
        with self._script.step(self._rank, name):
            self._base.synchronize(index)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)


class Ballots:
    """One decision per vote, fixed by the first rank whose deadline passes or by the last that comes."""

    def __init__(self, world: int) -> None:
        self.world = world
        self._changed = threading.Condition()
        self._ballots: dict[int, dict[int, tuple[bool, str, str, str]]] = {}
        self._decided: dict[int, Verdict] = {}

    def cast(self, number: int, rank: int, ballot: tuple[bool, str, str, str], deadline: float) -> Verdict:
        with self._changed:
            cast = self._ballots.setdefault(number, {})
            cast[rank] = ballot
            self._changed.notify_all()
            self._changed.wait_for(lambda: number in self._decided or len(cast) == self.world, deadline)
            return self._decided.setdefault(number, _decide(cast, self.world))


def _decide(cast: Mapping[int, tuple[bool, str, str, str]], world: int) -> Verdict:
    first = min(cast)
    _, subject, _, digest = cast[first]
    objections = {}
    for rank, (ok, about, reason, brought) in sorted(cast.items()):
        if not ok:
            objections[rank] = reason or "no reason given"
        elif (about, brought) != (subject, digest):
            objections[rank] = f"votes on {about!r} with {brought!r}, rank {first} on {subject!r} with {digest!r}"
    missing = tuple(rank for rank in range(world) if rank not in cast)
    return Verdict(not objections and not missing, subject, objections, missing)


class ThreadVoter:
    """The vote of one rank among threads; notes each vote as a step."""

    def __init__(self, script: Script, ballots: Ballots, rank: int) -> None:
        self._script, self._ballots, self.rank = script, ballots, rank
        self.world_size = ballots.world
        self._number = 0

    def vote(
        self, ok: bool, subject: str, *, reason: str = "", digest: str = "", deadline: float | None = None
    ) -> Verdict:
        number, self._number = self._number, self._number + 1
        with self._script.step(self.rank, "vote"):
            ballot = (ok, subject, reason, digest)
            return self._ballots.cast(number, self.rank, ballot, 30.0 if deadline is None else deadline)

    def barrier(self, *, deadline: float | None = None) -> None:
        """As of a communicator. DeadlineExceeded has no use here: LifecycleError if a rank does not come."""
        verdict = self.vote(True, "barrier", deadline=deadline)
        if verdict.missing:
            raise LifecycleError(f"ranks {verdict.missing} did not come to a barrier")


@dataclass(frozen=True)
class Outcome:
    """What one call gave on one rank: `error` is None if it returned; `seconds` that it took."""

    error: Exception | None
    seconds: float
    returned: float

    @property
    def text(self) -> str:
        return "" if self.error is None else str(self.error)


class ThreadRanks:
    """One engine: a `Lifecycle` of the backend per rank, over scripted parts. Use as a context manager."""

    def __init__(
        self, context: LawContext, world: int, faults: Collection[Fault] = (), deadlines: Deadlines = PATIENT
    ) -> None:
        self.context, self.world, self.deadlines = context, world, deadlines
        self.script = Script(faults)
        ballots = Ballots(world)
        count = context.backend.device.count()
        self.hosts = [ScriptedHost(self.script, rank) for rank in range(world)]
        self.memories = [ScriptedMemory(self.script, rank, TAGS) for rank in range(world)]
        self.originals = [dict(memory.contents) for memory in self.memories]
        self.lifecycles: list[Lifecycle] = [
            context.backend.lifecycle(
                LifecycleParts(
                    memory=self.memories[rank],
                    device=ScriptedDevice(context.backend.device, self.script, rank, rank % count),
                    device_index=rank % count,
                    voter=ThreadVoter(self.script, ballots, rank),
                    host=self.hosts[rank],
                    deadlines=deadlines,
                    volatile=VOLATILE,
                )
            )
            for rank in range(world)
        ]

    def __enter__(self) -> ThreadRanks:
        return self

    def __exit__(self, *_: object) -> None:
        self.script.let_go()

    def sleep(self, tags: Collection[str] | None = None, level: int = 1, **more: Any) -> list[Outcome]:
        return self.each(lambda lifecycle, rank: lifecycle.sleep(tags, level=level), **more)

    def wake(self, tags: Collection[str] | None = None, **more: Any) -> list[Outcome]:
        return self.each(lambda lifecycle, rank: lifecycle.wake(tags), **more)

    def committed(self, tags: Collection[str] | None = None, **more: Any) -> list[Outcome]:
        return self.each(lambda lifecycle, rank: lifecycle.committed(tags), **more)

    def each(
        self, call: Callable[[Lifecycle, int], object], *, ranks: Collection[int] | None = None, within: float = PROMPT
    ) -> list[Outcome]:
        """Call on all ranks (or `ranks`) at the same time. LawFailed, naming it, for a rank that is still waiting."""
        chosen = list(range(self.world)) if ranks is None else list(ranks)
        found: dict[int, Outcome] = {}

        def run(rank: int) -> None:
            begin, error = time.monotonic(), None
            try:
                call(self.lifecycles[rank], rank)
            except Exception as raised:  # noqa: BLE001 - judged by the law
                error = raised
            found[rank] = Outcome(error, time.monotonic() - begin, time.monotonic())

        threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in chosen]
        end = time.monotonic() + within
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        waiting = [rank for rank in chosen if rank not in found]
        if waiting:
            self.script.let_go()
            raise LawFailed(f"rank {waiting} of {self.world} still waits after {within:g} s")
        return [found[rank] for rank in chosen]

    def healths(self) -> list[Health]:
        return [lifecycle.health() for lifecycle in self.lifecycles]

    def must(self, outcomes: Sequence[Outcome], what: str) -> None:
        """Fail unless the call returned on every rank."""
        for rank, outcome in enumerate(outcomes):
            self.context.check(outcome.error is None, f"{what} failed on rank {rank} of {self.world}: {outcome.text}")

    def must_refuse(self, outcomes: Sequence[Outcome], what: str, *naming: str) -> None:
        """Fail unless every rank raised a LifecycleError that holds each text of `naming`."""
        for rank, outcome in enumerate(outcomes):
            where = f"{what} on rank {rank} of {self.world}"
            self.context.check(outcome.error is not None, f"{where} should raise a LifecycleError, and returned")
            kind = type(outcome.error).__name__
            self.context.check(
                isinstance(outcome.error, LifecycleError),
                f"{where} should raise a LifecycleError, raised {kind}: {outcome.text}",
            )
            absent = [text for text in naming if text not in outcome.text]
            self.context.check(not absent, f"{where} raised an error that does not name {absent}: {outcome.text}")

    def must_be(self, phases: Collection[str], when: str, *, written: Collection[str] = ()) -> str:
        """Fail unless all ranks are in one phase out of `phases`, and everything about them fits it; gives the phase.

        RUNNING serves the contents that were there at first (or anything under the tags `written`), ASLEEP has no
        memory under the tags it names and has it elsewhere, FAILED and all others serve nothing and say so.
        """
        check, healths = self.context.check, self.healths()
        found = {health.phase for health in healths}
        check(len(found) == 1, f"{when}: the ranks are torn apart, they are {[h.phase for h in healths]}")
        (phase,) = found
        check(phase in phases, f"{when}: the ranks are {phase}, expected {' or '.join(phases)}: {healths[0].reason}")
        for rank, health in enumerate(healths):
            where = f"{when}: rank {rank} of {self.world} is {phase}"
            memory, host = self.memories[rank], self.hosts[rank]
            check(health.serving == (phase == "RUNNING"), f"{where} and its health says serving={health.serving}")
            check(host.admits == health.serving, f"{where}, serving={health.serving}, admission is {host.admits}")
            if phase == "FAILED":
                check(not health.healthy, f"{where} and calls itself healthy")
                check(health.reason, f"{where} and gives no reason")
                continue
            for tag in TAGS:
                asleep = tag in health.asleep
                check(memory.is_mapped[tag] != asleep, f"{where}, asleep={health.asleep}: {tag} mapped={not asleep}?")
                if asleep or tag in VOLATILE or tag in health.undefined or tag in written:
                    continue
                check(
                    memory.contents[tag] == self.originals[rank][tag],
                    f"{where}: {tag} holds {memory.contents[tag].hex()}, expected {self.originals[rank][tag].hex()}",
                )
            check(
                health.asleep == () if phase == "RUNNING" else True, f"{where} and names sleeping tags {health.asleep}"
            )
        return phase


def at_once(*checks: Callable[[], None], within: float = 20.0) -> None:
    """Run checks that wait more than they work, side by side; raises what the first of them raised."""
    errors: dict[int, Exception] = {}

    def guarded(number: int) -> None:
        try:
            checks[number]()
        except Exception as error:  # noqa: BLE001 - raised below, by the thread that waits
            errors[number] = error

    threads = [threading.Thread(target=guarded, args=(number,), daemon=True) for number in range(len(checks))]
    end = time.monotonic() + within
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    if errors:
        raise errors[min(errors)]
    if any(thread.is_alive() for thread in threads):
        raise LawFailed(f"an operation did not end within {within:g} s")
