"""`Lifecycle`: carries out the state table on one rank. See `hardpoint.lifecycle.table` for what happens when."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from hardpoint.device.protocol import Device
from hardpoint.errors import LifecycleError
from hardpoint.lifecycle.account import Account
from hardpoint.lifecycle.host import AloneVoter, Host, IdleHost, Voter
from hardpoint.lifecycle.protocol import MemoryMap
from hardpoint.lifecycle.states import Action, Asked, Event, Operation, Phase, Raised, Stage, State, Voted, VoteLost
from hardpoint.lifecycle.step import StepStuck, run_step
from hardpoint.lifecycle.table import Transition, transition

_logger = logging.getLogger("hardpoint.lifecycle")


@dataclass(frozen=True)
class Deadlines:
    """Seconds. Nothing in `Lifecycle` waits longer than ``steps + vote`` between two votes.

    Attributes:
        steps: for all steps up to the next vote, the drain included.
        vote: for a vote, on top of what the slowest rank may still need for its steps.
    """

    steps: float = 60.0
    vote: float = 5.0


@dataclass(frozen=True)
class LifecycleParts:
    """What one rank's `Lifecycle` is made of.

    Attributes:
        memory: the backend's memory part.
        device: the backend's devices.
        device_index: this rank's device.
        voter: the ranks of one engine (tensor and pipeline parallel, not data parallel), on a CPU group.
        host: the engine.
        deadlines: see `Deadlines`.
        volatile: tags whose contents nobody needs after a sleep.
        keep_copies: keep the saved copies after a wake. The next sleep writes into the same host memory, and not at
            all where the digest says that nothing has changed since; they cost host memory while the rank serves.
    """

    memory: MemoryMap
    device: Device
    device_index: int = 0
    voter: Voter = field(default_factory=AloneVoter)
    host: Host = field(default_factory=IdleHost)
    deadlines: Deadlines = Deadlines()
    volatile: frozenset[str] = frozenset({"kv_cache"})
    keep_copies: bool = False


@dataclass(frozen=True)
class Health:
    """The truth about one rank.

    Attributes:
        healthy: nothing is known to be wrong; a rank that sleeps is healthy.
        serving: requests are admitted.
        phase: name of the `Phase`.
        operation: what is under way, or "".
        epoch: completed sleeps.
        asleep: tags without memory.
        undefined: tags whose contents a full weight update has to bring.
        missing: ranks that did not come to the last vote.
        reason: a sentence, "" if there is nothing to say.
    """

    healthy: bool
    serving: bool
    phase: str
    operation: str
    epoch: int
    asleep: tuple[str, ...]
    undefined: tuple[str, ...]
    missing: tuple[int, ...]
    reason: str


class Lifecycle:
    """Sleep and wake of one rank, in step with the other ranks of its engine.

    `sleep`, `wake` and `committed` are called on every rank with the same arguments. They raise LifecycleError when
    this rank is not where it was asked to go, and the message names rank and step; `health` then says where it is.
    """

    def __init__(self, parts: LifecycleParts, table: Transition = transition) -> None:
        self._parts = parts
        self._table = table
        self._state = State()
        self._op_ids = 0
        self._digests: dict[str, dict[str, str]] = {}
        self._kept: dict[str, dict[str, str]] = {}
        self._stuck: threading.Thread | None = None
        self._busy = threading.Lock()
        self._account = Account()
        self._spent: dict[str, float] = {}
        self._failed = ""

    def sleep(self, tags: Collection[str] | None = None, *, level: int = 1, op_id: int | None = None) -> Health:
        """Give back the memory under `tags` (None: all). Level 1 keeps the contents, level 2 does not.

        Tags that sleep already are left alone. On failure before the first vote nothing changed; after it the rank is
        rolled back, or FAILED.
        """
        if level not in (1, 2):
            raise LifecycleError(f"a sleep has level 1 (contents kept) or 2 (contents lost), got {level!r}")
        return self._operate("sleep", tags, level, op_id)

    def wake(self, tags: Collection[str] | None = None, *, op_id: int | None = None) -> Health:
        """Put memory and contents behind `tags` (None: all) again. Admission opens when no tag sleeps any more."""
        return self._operate("wake", tags, 1, op_id)

    def committed(self, tags: Collection[str] | None = None, *, op_id: int | None = None) -> Health:
        """A full weight update has written all of `tags` (None: all that is undefined); serving may go on."""
        return self._operate("commit", tags, 1, op_id)

    def health(self) -> Health:
        """Never waits, also while an operation is under way."""
        state, stuck = self._state, self._stuck is not None and self._stuck.is_alive()
        operation = state.operation if state.stage is not Stage.REST else None
        return Health(
            healthy=state.healthy and not stuck,
            serving=state.serves and not stuck and not self._busy.locked(),
            phase=state.phase.value,
            operation="" if operation is None else f"{operation}, before the vote '{state.stage.value}'",
            epoch=state.epoch,
            asleep=tuple(sorted(state.asleep)),
            undefined=tuple(sorted(state.undefined)),
            missing=state.missing,
            reason=state.reason,
        )

    def account(self) -> Account:
        """Seconds, bytes and the failed step of the last operation that came to its end here."""
        return self._account

    def require_serving(self) -> None:
        """LifecycleError, with the reason, unless requests may be served now. Costs no vote."""
        health = self.health()
        if not health.serving:
            raise LifecycleError(f"rank {self._parts.voter.rank} serves nothing now: {_why(health)}")

    # -- one operation -------------------------------------------------------------------------------------------

    def _operate(self, kind: str, tags: Collection[str] | None, level: int, op_id: int | None) -> Health:
        rank = self._parts.voter.rank
        if not self._busy.acquire(blocking=False):
            raise LifecycleError(f"rank {rank}: {kind} refused, {self._state.operation} is under way")
        try:
            if self._state.phase is Phase.FAILED:
                raise LifecycleError(f"rank {rank}: {kind} refused, the rank is FAILED: {self._state.reason}")
            if self._stuck is not None and self._stuck.is_alive():
                raise LifecycleError(f"rank {rank}: {kind} refused, '{self._stuck.name}' still runs past its deadline")
            self._op_ids = self._op_ids + 1 if op_id is None else op_id
            chosen, problem = self._choose(kind, tags)
            operation = Operation(kind, self._op_ids, chosen, level, self._parts.volatile)
            begin, self._spent, self._failed = time.monotonic(), {}, "ask" if problem else ""
            self._run(Asked(operation, problem))
            self._account = self._settle(operation, time.monotonic() - begin)
        finally:
            self._busy.release()
        if self._state.reason:
            raise LifecycleError(
                f"rank {rank}: {operation} was given up; the rank is {self._state.phase.value}: {self._state.reason}"
            )
        return self.health()

    def _choose(self, kind: str, tags: Collection[str] | None) -> tuple[frozenset[str], str]:
        """The tags that a call is about, and why this rank cannot take part, "" if it can."""
        state, known = self._state, frozenset(self._parts.memory.tags())
        whole = {"sleep": known, "wake": state.asleep, "commit": state.undefined}[kind]
        chosen = whole if tags is None else frozenset(tags)
        unknown = sorted(chosen - known)
        if unknown:
            return chosen, f"there is no memory under {', '.join(unknown)}; known tags: {', '.join(sorted(known))}"
        if kind == "wake" and state.epoch == 0:
            return chosen, "it never slept, so there is nothing to wake"
        if kind == "commit" and chosen & state.asleep:
            return chosen, f"{', '.join(sorted(chosen & state.asleep))} sleeps and cannot have been written; wake it"
        return chosen, ""

    def _run(self, event: Event) -> None:
        while True:
            self._state, actions = self._table(self._state, event)
            following = self._carry_out(actions)
            if following is None:
                return
            event = following

    def _carry_out(self, actions: tuple[Action, ...]) -> Event | None:
        """Do `actions`; the event that they lead to, None if the operation has come to its end."""
        begin = time.monotonic()
        for action in actions:
            entered = time.monotonic()
            left = self._parts.deadlines.steps - (entered - begin)
            try:
                if action is Action.VOTE:
                    return self._vote(left)
                run_step(action.value, self._step(action, left), left)
            except StepStuck as stuck:
                self._stuck, self._failed = stuck.thread, action.value
                return Raised(action, str(stuck), lasting=True)
            except Exception as error:  # noqa: BLE001 - whatever a driver raises, the other ranks have to hear of it
                self._failed = action.value
                return Raised(action, f"{type(error).__name__}: {error}")
            finally:
                self._spent[action.value] = self._spent.get(action.value, 0.0) + time.monotonic() - entered
        return None

    def _settle(self, operation: Operation, seconds: float) -> Account:
        touched, moved = self._state.touched, 0
        if not self._state.reason and operation.kind != "commit":
            try:
                moved = sum(held.nbytes for held in self._parts.memory.holders() if held.tag in touched)
            except Exception as error:  # noqa: BLE001 - the operation is done; a list that cannot be had undoes nothing
                _logger.warning("hardpoint: %s counts as 0 bytes, holders cannot be listed: %s", operation, error)
        return Account(operation.kind, operation.op_id, seconds, dict(self._spent), moved, self._failed)

    def _vote(self, left: float) -> Event:
        state, voter = self._state, self._parts.voter
        deadline = max(left, 0.0) + self._parts.deadlines.vote
        subject = f"{state.operation}: {state.stage.value}"
        try:
            verdict = voter.vote(
                not state.objection, subject, reason=state.objection, digest=state.agreed, deadline=deadline
            )
        except Exception as error:  # noqa: BLE001 - a lost vote is an event of the table like any other
            self._failed = self._failed or Action.VOTE.value
            return VoteLost(f"{type(error).__name__}: {error}")
        if verdict.unanimous:
            return Voted(True)
        sentences = [f"rank {rank} objects: {reason}" for rank, reason in sorted(verdict.objections.items())]
        if verdict.missing:
            self._failed = self._failed or Action.VOTE.value
            names = ", ".join(str(rank) for rank in verdict.missing)
            sentences.append(f"rank {names} did not vote on '{state.stage.value}' within {deadline:.1f} s")
        return Voted(False, verdict.missing, "; ".join(sentences) or "the vote was not unanimous")

    # -- one step ------------------------------------------------------------------------------------------------

    def _step(self, action: Action, left: float) -> Callable[[], None]:
        host, device, index = self._parts.host, self._parts.device, self._parts.device_index
        steps: dict[Action, Callable[[], None]] = {
            Action.CLOSE_ADMISSION: host.close_admission,
            Action.DRAIN: lambda: host.drain(left),
            Action.SYNCHRONIZE: lambda: device.synchronize(index),
            Action.SAVE: self._save,
            Action.UNMAP: lambda: self._parts.memory.unmap(self._touched()),
            Action.MAP: lambda: self._parts.memory.map(self._touched()),
            Action.RESTORE: self._restore,
            Action.CHECK_DIGEST: self._check_digest,
            Action.RESUME: lambda: host.resume(sorted(self._parts.volatile)),
            Action.DISCARD: self._discard,
            Action.OPEN_ADMISSION: host.open_admission,
        }

        def on_device() -> None:
            with device.use(index):
                steps[action]()

        return on_device

    def _touched(self) -> list[str]:
        return sorted(self._state.touched)

    def _save(self) -> None:
        tags = sorted(self._state.touched - self._parts.volatile)
        for tag in tags:
            self._digests[tag] = self._parts.memory.digest([tag])
        # Memory of equal contents at the address of what was freed has the digest of old, and no copy.
        bare = {held.tag for held in self._parts.memory.holders() if not held.saved} if self._kept else set()
        changed = [tag for tag in tags if self._kept.get(tag) != self._digests[tag] or tag in bare]
        for tag in changed:
            self._kept.pop(tag, None)  # a save that fails half-way leaves no copy worth keeping
        if changed:
            self._parts.memory.save(changed)
        if self._parts.keep_copies:
            self._kept.update({tag: self._digests[tag] for tag in changed})

    def _restore(self) -> None:
        kept = [tag for tag in self._touched() if tag in self._digests]
        if kept:
            self._parts.memory.restore(kept)

    def _check_digest(self) -> None:
        for tag in self._touched():
            before = self._digests.get(tag)
            if before is None:
                continue
            now = self._parts.memory.digest([tag])
            wrong = [what for what, digest in now.items() if what in before and before[what] != digest]
            if wrong:
                names = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
                raise LifecycleError(f"{names}: the contents are not those that were put to sleep")

    def _discard(self) -> None:
        done = [tag for tag in self._digests if tag not in self._state.asleep]
        dropped = [tag for tag in done if tag not in self._kept]
        if dropped:
            self._parts.memory.discard(dropped)
        for tag in done:
            del self._digests[tag]


LifecycleFactory = Callable[[LifecycleParts], Lifecycle]


def _why(health: Health) -> str:
    words = [f"it is {health.phase}"]
    if health.asleep:
        words.append(f"{', '.join(health.asleep)} sleeps")
    if health.undefined:
        words.append(f"{', '.join(health.undefined)} lost its contents, a full weight update has to commit first")
    if health.operation:
        words.append(f"{health.operation} is under way")
    return "; ".join([*words, *([health.reason] if health.reason else [])])
