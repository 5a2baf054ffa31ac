"""`Coordinator`: the trainer's end of the transaction, as a state machine that takes messages and the time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

import torch

from hardpoint.errors import SyncError
from hardpoint.sync.plan import Sources, SyncPlan
from hardpoint.sync.plan.execute import new_buffer
from hardpoint.sync.session import describe
from hardpoint.sync.transaction.digests import payload_digest
from hardpoint.sync.transaction.messages import (
    Alive,
    Ask,
    Ballots,
    Begin,
    Data,
    Decide,
    Message,
    Outgoing,
    Present,
    Probe,
    Step,
    Stream,
    Verify,
)
from hardpoint.sync.transaction.mode import Mode
from hardpoint.sync.transaction.record import Decision, DecisionRecord, MemoryRecord
from hardpoint.sync.transaction.tree import ARITY, Tree

_SENTENCES = 16
GRACE = 0.5  # seconds that a rank has to answer when it is asked past the tree


class Stage(str, Enum):
    """Where the trainer is in an update."""

    REST = "rest"
    BEGIN = "begin"
    STREAM = "stream"
    VERIFY = "verify"
    DONE = "done"


@dataclass(frozen=True)
class Outcome:
    """How an update ended, as the trainer knows it.

    Attributes:
        committed: the decision. False: no rank has, or will have, any of it.
        step: where it ended.
        reason: a sentence, empty if every rank has the new weights and serves them.
        objections: rank -> its sentence, from the vote that ended the update, or of a rank that could not carry out
            the decision (it is FAILED then, and serves nothing).
        missing: ranks that did not answer within the deadline.
        seconds: from begin to here.
    """

    committed: bool
    epoch: int
    step: str
    reason: str
    objections: Mapping[int, str]
    missing: tuple[int, ...]
    seconds: float

    @property
    def everywhere(self) -> bool:
        """Every rank has the new weights and serves them."""
        return self.committed and not self.objections and not self.missing

    def __str__(self) -> str:
        fate = "committed" if self.committed else "aborted, the old weights stay"
        return f"epoch {self.epoch} {fate}" + (f", at {self.step}: {self.reason}" if self.reason else "")


@dataclass
class _Vote:
    step: Step
    until: float
    yes: set[int] = field(default_factory=set)  # positions
    no: dict[int, str] = field(default_factory=dict)  # ranks
    probed: tuple[int, ...] = ()  # positions
    absent: dict[int, str] = field(default_factory=dict)  # ranks that are there and had nothing to vote on
    gone: tuple[int, ...] = ()  # ranks that were missing at an earlier vote: not waited for again
    cause: str = ""  # the update ends whatever is answered; what is asked is who is still there


class Coordinator:
    """Sends updates to all receivers of `plan`.

    Args:
        address: where receivers' answers go; no receiver's rank.
        record: where decisions are written before anybody acts on them.
    """

    def __init__(
        self,
        plan: SyncPlan,
        address: int = 0,
        *,
        record: DecisionRecord | None = None,
        arity: int = ARITY,
    ) -> None:
        if address in plan.shard_of:
            raise SyncError(f"Rank {address} receives weights in this plan; the trainer needs an address of its own.")
        self.address = address
        self.plan = plan
        self.stage = Stage.REST
        self.outcome: Outcome | None = None
        self._record: DecisionRecord = record or MemoryRecord()
        self._members = tuple(sorted(plan.shard_of))
        self._tree = Tree(len(self._members), arity)
        self._begin: Begin | None = None
        self._sources: Sources | None = None
        self._vote: _Vote | None = None
        self._next = 0
        self._digests: list[bytes] = []
        self._started = 0.0
        self._decided: Decide | None = None
        self._told: dict[int, float] = {}
        self._lane = ""

    def start(
        self,
        session: str,
        epoch: int,
        named_tensors: Mapping[str, torch.Tensor],
        now: float,
        *,
        mode: Mode = Mode.AUTO,
        deadline: float = 60.0,
        lane: str = "",
    ) -> list[Outgoing]:
        """Begin an update. Drive it by `receive` and `tick` until `stage` is REST.

        An abort is in `outcome` as soon as it is decided; what ranks say about going back is added to it at the end.

        Args:
            session: a name that no update had before (16 random bytes as hexadecimal are enough).
            deadline: seconds for each vote, and for a receiver to wait for the next message.
            lane: name of the data plane that carries the buckets: `streamed` or `lost` must follow once `stage` is
                STREAM. Empty if they travel as messages.

        Raises:
            SyncError: an update is under way, or the tensors are not those of the plan; nothing was sent.
        """
        if self.stage is not Stage.REST:
            raise SyncError(f"The update of epoch {self._opened.epoch} is under way, at {self.stage.value}.")
        if self._record.read(session) is not None:
            raise SyncError(f"Session {session} was decided before; every update needs a new one.")
        self._sources = Sources(self.plan, named_tensors)
        self._begin = Begin(session, self.address, epoch, self.plan.digest, mode, deadline)
        self.outcome, self._decided = None, None
        self._digests, self._next, self._started = [], 0, now
        self._told = dict.fromkeys(self._members, now)
        self._lane = lane
        return self._ask(Stage.BEGIN, Step.BEGIN, self._begin, now)

    def receive(self, message: Message, now: float) -> list[Outgoing]:
        """Take one message; returns what to send."""
        if isinstance(message, Ask):
            return self._answer(message)
        if self._begin is None or message.session != self._begin.session:
            return []
        if isinstance(message, Ballots):
            return self._ballots(message, now)
        if isinstance(message, Present):
            return self._present(message, now)
        return []

    @property
    def sources(self) -> Sources:
        """The tensors of the update under way."""
        assert self._sources is not None
        return self._sources

    def streamed(self, digests: tuple[bytes, ...], now: float) -> list[Outgoing]:
        """The data plane has sent all buckets. `digests`: of each; empty in mode off, which verifies nothing."""
        if self.stage is not Stage.STREAM or self._vote is not None:
            return []
        verify = Verify(self._opened.session, self.address, digests)
        return self._ask(Stage.VERIFY, Step.VERIFY, verify, now)

    def lost(self, reason: str, now: float) -> list[Outgoing]:
        """The data plane failed, so the update ends. All are asked first who is there, so that the right one is named.

        Whoever waits in a collective for a dead peer is not to blame: its control loop answers.
        """
        if self.stage is not Stage.STREAM or self._vote is not None:
            return []
        everybody = tuple(range(len(self._members)))
        self._vote = _Vote(Step.BEGIN, now + GRACE, probed=everybody, cause=reason)
        question = Probe(self._opened.session, self.address, Step.BEGIN)
        return [Outgoing(rank, question) for rank in self._members]

    def tick(self, now: float) -> list[Outgoing]:
        """Let time pass, and send the next bucket while streaming."""
        vote = self._vote
        if self.stage is Stage.STREAM and vote is None:
            return [] if self._lane else self._send(now)
        if vote is None or now < vote.until:
            return []
        if vote.probed:
            return self._count(vote, now, final=True)
        waiting = tuple(
            position
            for position in range(len(self._members))
            if position not in vote.yes and self._members[position] not in vote.no
        )
        vote.probed, vote.until = waiting, now + GRACE
        question = Probe(self._opened.session, self.address, vote.step)
        # A rank that was told through the tree may never have been: the decision goes to it with the question.
        told: list[Message] = [self._decided] if vote.step is Step.DONE and self._decided is not None else []
        return [Outgoing(self._members[position], message) for position in waiting for message in (*told, question)]

    @property
    def wake_at(self) -> float | None:
        """When `tick` has something to do; it has at once while streaming."""
        if self.stage is Stage.STREAM and self._vote is None:
            return None if self._lane else 0.0
        return None if self._vote is None else self._vote.until

    @property
    def _opened(self) -> Begin:
        assert self._begin is not None
        return self._begin

    def _ask(self, stage: Stage, step: Step, message: Begin | Verify | Decide, now: float) -> list[Outgoing]:
        """Open a vote with the message that it is about."""
        self.stage = stage
        self._vote = _Vote(step, now + self._opened.deadline)
        return [Outgoing(self._members[0], message)]

    def _ballots(self, ballots: Ballots, now: float) -> list[Outgoing]:
        vote = self._vote
        if vote is None or ballots.step is not vote.step:
            if ballots.step is Step.VERIFY and ballots.no and self.stage is Stage.STREAM:
                return self._abort("stream", dict(ballots.no), (), now)
            return []
        everybody = range(len(self._members))
        for position in ballots.whole:
            if position in everybody:
                vote.yes.update(self._tree.subtree(position))
        vote.yes.update(position for position in ballots.yes if position in everybody)
        vote.no.update(ballots.no)
        return self._count(vote, now)

    def _present(self, present: Present, now: float) -> list[Outgoing]:
        vote = self._vote
        known = present.rank in self._members
        if vote is None or present.step is not vote.step or not vote.probed or not known:
            return []
        if present.vote is None:
            vote.absent[present.rank] = (
                present.reason or f"is there and was never asked for its vote on {vote.step.value}"
            )
        elif present.vote:
            vote.yes.add(self._members.index(present.rank))
        else:
            vote.no.setdefault(present.rank, present.reason)
        return self._count(vote, now)

    def _count(self, vote: _Vote, now: float, *, final: bool = False) -> list[Outgoing]:
        """Go on if all said yes in time; end if anybody said no, or time is over."""
        if vote.cause:
            silent = self._silent(vote)
            if silent and not final:
                return []
            return self._abort("stream", {**vote.absent, **vote.no, self.address: vote.cause}, silent, now)
        everyone = len(vote.yes) == len(self._members) and not vote.no
        if vote.step is Step.DONE:
            if everyone or final or not self._silent(vote):
                self._finish(vote, now)
            return []
        if everyone and now <= vote.until:
            return self._opened_stream() if vote.step is Step.BEGIN else self._decide(True, (), now)
        if final or (vote.no and not vote.probed):
            missing = self._silent(vote) if final else ()
            return self._abort(vote.step.value, {**vote.absent, **vote.no}, missing, now)
        return []

    def _silent(self, vote: _Vote) -> tuple[int, ...]:
        """Ranks that have said nothing yet, without those that were missing before."""
        return tuple(
            rank
            for position, rank in enumerate(self._members)
            if position not in vote.yes and rank not in vote.no and rank not in vote.absent and rank not in vote.gone
        )

    def _opened_stream(self) -> list[Outgoing]:
        self.stage, self._vote = Stage.STREAM, None
        if not self._lane:
            return []
        return [Outgoing(self._members[0], Stream(self._opened.session, self.address, self._lane))]

    def _send(self, now: float) -> list[Outgoing]:
        begin = self._opened
        if self._next == len(self.plan.buckets):
            return self._ask(Stage.VERIFY, Step.VERIFY, Verify(begin.session, self.address, tuple(self._digests)), now)
        bucket = self.plan.buckets[self._next]
        self._next += 1
        try:
            payload = new_buffer(bucket)
            assert self._sources is not None
            self._sources.pack(bucket, payload)
            self._digests.append(payload_digest(payload))
        except Exception as error:  # noqa: BLE001 - told to everybody, and to the caller in the outcome
            reason = f"the trainer failed at bucket {bucket.index}: {describe(error)}"
            return self._abort("stream", {self.address: reason}, (), now)
        data = Data(begin.session, begin.epoch, bucket.index, payload)
        audience = self.plan.audience(bucket)
        self._told.update(dict.fromkeys(audience, now))
        quiet = [rank for rank, at in self._told.items() if now - at > begin.deadline / 3]
        self._told.update(dict.fromkeys(quiet, now))
        return [Outgoing(rank, data) for rank in audience] + [Outgoing(rank, Alive(begin.session)) for rank in quiet]

    def _abort(self, at: str, objections: dict[int, str], missing: tuple[int, ...], now: float) -> list[Outgoing]:
        sentences = [f"{self._who(rank)}: {reason}" for rank, reason in sorted(objections.items())]
        sentences += [f"rank {rank} did not answer within {self._opened.deadline:g} s" for rank in missing]
        reason = _joined(sentences)
        self.outcome = Outcome(False, self._opened.epoch, at, reason, objections, missing, now - self._started)
        return self._decide(False, missing, now)

    def _decide(self, commit: bool, gone: tuple[int, ...], now: float) -> list[Outgoing]:
        """Write the decision down, then tell it."""
        begin, vote = self._opened, self._vote
        reason = self.outcome.reason if self.outcome is not None else ""
        try:
            self._record.write(Decision(begin.session, begin.epoch, commit, reason))
        except Exception as error:  # noqa: BLE001 - told to everybody; what is not recorded is not committed
            if commit:
                unwritten = f"the decision could not be recorded: {describe(error)}"
                return self._abort(Step.VERIFY.value, {self.address: unwritten}, (), now)
        self._decided = Decide(begin.session, self.address, begin.epoch, commit, reason)
        out = self._ask(Stage.DONE, Step.DONE, self._decided, now)
        assert self._vote is not None
        self._vote.gone = gone
        # The tree may be broken above those who did not answer through it: tell them themselves.
        probed = vote.probed if vote is not None else ()
        return out + [Outgoing(self._members[position], self._decided) for position in probed]

    def _finish(self, vote: _Vote, now: float) -> None:
        decided = self._decided
        assert decided is not None
        silent, failed = self._silent(vote), {**vote.no, **(vote.absent if decided.commit else {})}
        sentences = [f"{self._who(rank)}: {reason}" for rank, reason in sorted(failed.items())]
        act = "carried the commit out" if decided.commit else "went back"
        sentences += [f"rank {rank} has not said that it {act}" for rank in silent]
        seconds = now - self._started
        if decided.commit:
            self.outcome = Outcome(True, decided.epoch, Step.DONE.value, _joined(sentences), failed, silent, seconds)
        else:
            assert self.outcome is not None
            reason = _joined([self.outcome.reason, *sentences])
            objections = {**failed, **self.outcome.objections}
            missing = tuple(sorted({*self.outcome.missing, *silent}))
            self.outcome = replace(self.outcome, reason=reason, objections=objections, missing=missing)
        self.stage, self._vote, self._sources = Stage.REST, None, None

    def _answer(self, ask: Ask) -> list[Outgoing]:
        under_way = self._begin is not None and self._begin.session == ask.session and self.stage is not Stage.REST
        return answer(ask, self._record, self.address, under_way)

    def _who(self, rank: int) -> str:
        return f"rank {rank} (the trainer)" if rank == self.address else f"rank {rank}"


def answer(ask: Ask, record: DecisionRecord, address: int, under_way: bool = False) -> list[Outgoing]:
    """A rank in doubt asks. Only what is recorded is told; without a durable record, silence is the answer."""
    decision = record.read(ask.session)
    if decision is None:
        if under_way or not record.durable:
            return []
        decision = Decision(ask.session, -1, False, "the trainer started again before it decided")
        record.write(decision)  # so that it stays decided
    told = Decide(ask.session, address, decision.epoch, decision.commit, decision.reason)
    return [Outgoing(ask.rank, told)]


def _joined(sentences: list[str]) -> str:
    """All in one, bounded: it goes to every rank. `Outcome` holds the rest as data."""
    more = [f"and {len(sentences) - _SENTENCES} more ranks"] if len(sentences) > _SENTENCES else []
    return "; ".join([*sentences[:_SENTENCES], *more])
