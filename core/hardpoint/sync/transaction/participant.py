"""`Participant`: a receiver's end of the transaction, as a state machine that takes messages and the time.

It holds no socket, thread or clock, so that the same object can run over any transport and in a simulation. Three rules
carry it: nothing but the staging changes before the decision; who has said yes to `Step.VERIFY` serves nothing until
the decision is known; and what cannot be known or carried out ends in FAILED, which only a full update ends.
"""

from __future__ import annotations

from collections.abc import Callable

from hardpoint.errors import HardpointError, SyncError
from hardpoint.sync.plan import Storages, SyncPlan
from hardpoint.sync.session import describe
from hardpoint.sync.transaction.history import UNKNOWN, History
from hardpoint.sync.transaction.hooks import EngineHooks, NoEngine
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
from hardpoint.sync.transaction.mode import choose_mode
from hardpoint.sync.transaction.phase import Ending, OpenUpdate, Phase
from hardpoint.sync.transaction.receipt import bucket_of, refuse_unlike
from hardpoint.sync.transaction.relay import Relay
from hardpoint.sync.transaction.staging import Staging
from hardpoint.sync.transaction.tree import ARITY
from hardpoint.sync.transaction.waits import in_doubt_after, silent_for
from hardpoint.sync.transaction.weights import Binding, Find, Unplanned, Weights


class Participant:
    """One rank that serves weights.

    Args:
        live: its parameters, bound to the plan that this rank made itself.
        find: asked for weights bound to the plan of an update, by its digest, if that is another one; None for "no such
            plan can be made here". The members must be the same.
        epoch: of the weights that are in them; -1 for weights that are no version at all (a rank that started again
            while its peers went on): it is FAILED until a full update.
        hooks: of the engine; None for none.
        longest_deadline: seconds that a trainer may ask for.
        on_end: called with each update's end here, whoever began it.
        after: the participant that this one takes the place of, with its epoch and phase: a new trainer came. Its
            update must have ended.
    """

    def __init__(
        self,
        live: Storages | Weights | Unplanned,
        *,
        epoch: int = 0,
        find: Find | None = None,
        hooks: EngineHooks | None = None,
        arity: int = ARITY,
        longest_deadline: float = 600.0,
        on_end: Callable[[Ending], None] = lambda ending: None,
        after: Participant | None = None,
    ) -> None:
        self.rank = live.rank
        self.epoch = epoch
        self.phase = Phase.SERVING if epoch >= 0 else Phase.FAILED
        self.reason = "" if epoch >= 0 else "started again, and has not had a full update since"
        self._binding = Binding(live, find)
        self._hooks: EngineHooks = hooks or NoEngine()
        self._relay = Relay(live.rank, self._binding.members, arity)
        self._longest = longest_deadline
        self._on_end = on_end
        self._open: OpenUpdate | None = None
        self._committed = False  # an update, since this object was made
        self._seen = epoch
        if after is not None:
            if after.phase not in (Phase.SERVING, Phase.FAILED):
                raise SyncError(f"An update is under way on this rank, at {after.phase.value}; let it end first.")
            self.epoch, self.phase, self.reason, self._seen = after.epoch, after.phase, after.reason, after._seen
        self._history = History()

    @property
    def may_serve(self) -> bool:
        """Whether this rank may take part in an engine step. An engine serves if all its ranks may, at one `epoch`."""
        if self.phase is Phase.STAGING:
            assert self._open is not None
            return self._open.staging.serves and self._open.was is Phase.SERVING
        return self.phase is Phase.SERVING

    def receive(self, message: Message, now: float) -> list[Outgoing]:
        """Take one message; returns what to send. Raises only for what is not a message to a receiver."""
        if isinstance(message, Data):
            return self._data(message, now)
        if isinstance(message, Alive):
            if self._open is not None and self._open.begin.session == message.session:
                self._open.heard = now
            return []
        if isinstance(message, Ballots):
            return self._relay.gather(message, now, self._patience)
        if isinstance(message, Begin):
            return [*self._relay.down(message), *self._begin(message, now)]
        if isinstance(message, Stream):
            if self._open is not None and self._open.begin.session == message.session:
                self._open.heard = now
            return self._relay.down(message)
        if isinstance(message, Verify):
            return [*self._relay.down(message), *self._verify(message, now)]
        if isinstance(message, Decide):
            return [*self._relay.down(message), *self._decide(message, now)]
        if isinstance(message, Probe):
            return [self._present(message)]
        raise SyncError(f"A receiver does not take {type(message).__name__}.")

    def tick(self, now: float) -> list[Outgoing]:
        """Let time pass. Call it at `wake_at`, or whenever convenient."""
        out = self._relay.tick(now)
        update = self._open
        if update is None:
            return out
        limit = self._deadline(update.begin)
        due = update.due(self.phase, limit)
        if due is None or now < due:
            return out
        if self.phase is Phase.STAGING:
            self._leave(update, f"nothing came from the trainer for {silent_for(limit):g} s")
        elif not update.asked and now < update.prepared_at + in_doubt_after(limit):
            update.asked = True
            out.append(Outgoing(update.begin.coordinator, Ask(update.begin.session, self.rank)))
        else:
            self._fail(
                update,
                f"said yes to epoch {update.begin.epoch} and did not learn the decision from the trainer within "
                f"{in_doubt_after(limit):g} s; a full update is needed",
            )
        return out

    @property
    def wake_at(self) -> float | None:
        """When `tick` has something to do; None while nothing is waited for."""
        times = [] if self._relay.wake_at is None else [self._relay.wake_at]
        update = self._open
        due = None if update is None else update.due(self.phase, self._deadline(update.begin))
        return min([*times, *([] if due is None else [due])], default=None)

    @property
    def under_way(self) -> Begin | None:
        """What opened the update that this rank takes part in, None if there is none."""
        return None if self._open is None else self._open.begin

    @property
    def plan(self) -> SyncPlan:
        """That the weights are bound to. SyncError before the first update."""
        return self._binding.plan

    @property
    def staging(self) -> Staging | None:
        """Of the update that streams, None otherwise."""
        return self._open.staging if self._open is not None and self.phase is Phase.STAGING else None

    def streamed(self, session: str, stored: dict[int, bytes], now: float) -> None:
        """All buckets are where they belong. `stored`: digest of each, read from there; empty if none was taken."""
        if self._open is not None and self._open.begin.session == session:
            self._open.heard = now
            self._open.landed.update(bucket.index for bucket in self.plan.buckets_for(self.rank))
            self._open.stored = stored or None

    def cut_off(self, session: str, why: str) -> None:
        """The data plane failed here. Said when this rank is asked for its vote: the trainer looks for the culprit."""
        if self._open is not None and self._open.begin.session == session:
            self._open.cut = why

    def object_to(self, session: str, why: str, now: float) -> list[Outgoing]:
        """What streams in cannot be taken here: said at once, so that the trainer need not send the rest."""
        update = self._open
        if update is None or update.begin.session != session or update.objection or self.phase is not Phase.STAGING:
            return []
        update.objection = why
        return self._vote(session, Step.VERIFY, update.begin.coordinator, False, why, now)

    def unreachable(self, why: str) -> None:
        """Nothing can come from the trainer any more: what would be waited for until a deadline is known now."""
        update = self._open
        if update is not None and self.phase is Phase.PREPARED:
            epoch = update.begin.epoch
            self._fail(
                update, f"said yes to epoch {epoch} and did not learn the decision: {why}; a full update is needed"
            )
        elif update is not None:
            self._leave(update, f"lost the trainer: {why}")

    def broke(self, reason: str) -> None:
        """Something outside the protocol went wrong on this rank: it serves nothing until a full update."""
        if self._open is not None:
            self._fail(self._open, reason)
        else:
            self._stop(reason)

    # What the messages do.

    def _begin(self, begin: Begin, now: float) -> list[Outgoing]:
        if self._open is not None and self._open.begin.session == begin.session:
            return []
        try:
            self._check(begin)
            live = self._binding.found(begin.plan)
            self._make_way(begin)  # only for one that could be taken: a stray message must not end what is under way
            self._binding.bind(live)
            choice = choose_mode(begin.mode, live.nbytes, self._hooks.room())
            self._hooks.chosen(choice)
            staging = live.stage(choice.mode)
            if not staging.serves and self.phase is Phase.SERVING:
                self._hooks.pause()
        except Exception as error:  # noqa: BLE001 - it is this rank's vote
            reason = _sentence(error)
            if self.phase is Phase.SERVING:
                try:
                    self._hooks.resume()
                except Exception as again:  # noqa: BLE001 - a pause that failed half-way, and stayed
                    reason = f"{reason}; and serving could not be resumed: {_sentence(again)}"
                    self._stop(reason)  # it does not serve, so it must not say that it does
            self._end(begin.session, begin.epoch, reason)
            return self._vote(begin.session, Step.BEGIN, begin.coordinator, False, reason, now)
        self._open = OpenUpdate(begin, staging, self.phase, self._seen, now)
        self.phase = Phase.STAGING
        return self._vote(begin.session, Step.BEGIN, begin.coordinator, True, "", now)

    def _make_way(self, begin: Begin) -> None:
        update = self._open
        if update is None:
            return
        # The same trainer begins anew: whatever it decided on the last session did not arrive.
        if self.phase is Phase.PREPARED:
            self._fail(update, f"said yes to epoch {update.begin.epoch}, and the trainer began another without a word")
        else:
            self._leave(update, "the trainer began another update")

    def _check(self, begin: Begin) -> None:
        update = self._open
        if update is not None and update.begin.coordinator != begin.coordinator:
            raise SyncError(
                f"the update of epoch {update.begin.epoch} by trainer {update.begin.coordinator} is under way here; "
                f"trainer {begin.coordinator} has to wait for its end"
            )
        if not 0 < begin.deadline <= self._longest:
            raise SyncError(f"a deadline of {begin.deadline:g} s is not within 0 to {self._longest:g} s")
        ending = self._history.ending(begin.session)
        if ending is not None:
            raise SyncError(f"session {begin.session} has ended here: {ending}")
        if begin.epoch <= self._seen:
            raise SyncError(
                f"the update has epoch {begin.epoch}, and epoch {self._seen} was already here; the next must be at "
                f"least {self._seen + 1}"
            )

    def _data(self, data: Data, now: float) -> list[Outgoing]:
        update = self._open
        if update is None or update.begin.session != data.session or self.phase is not Phase.STAGING:
            return []  # of a session that has ended here, or never began: the votes tell
        update.heard = now
        if update.objection:
            return []
        try:
            bucket = bucket_of(data, update, self.plan, self.rank)
            update.staging.land(bucket, data.payload)
        except Exception as error:  # noqa: BLE001 - it is this rank's vote
            return self.object_to(data.session, _sentence(error), now)
        update.landed.add(data.bucket)
        return []

    def _verify(self, verify: Verify, now: float) -> list[Outgoing]:
        update = self._open
        if update is None or update.begin.session != verify.session:
            reason = self._history.why_not(verify.session)
            return self._vote(verify.session, Step.VERIFY, verify.coordinator, False, reason, now)
        if self.phase is not Phase.STAGING:
            return []
        update.heard = now
        try:
            if update.objection:
                raise SyncError(update.objection)
            refuse_unlike(verify, update, self.plan, self.rank)
            self._hooks.inspect(update.staging.target)
            self._hooks.pause()
            update.staging.prepare()
        except Exception as error:  # noqa: BLE001 - it is this rank's vote
            update.objection = update.objection or _sentence(error)
            return self._vote(verify.session, Step.VERIFY, verify.coordinator, False, update.objection, now)
        self.phase = Phase.PREPARED
        self._seen = update.begin.epoch
        update.prepared_at = now
        return self._vote(verify.session, Step.VERIFY, verify.coordinator, True, "", now)

    def _decide(self, decide: Decide, now: float) -> list[Outgoing]:
        update = self._open
        if update is None or update.begin.session != decide.session:
            return self._decided_elsewhere(decide, now)
        if decide.commit and self.phase is Phase.PREPARED:
            self._commit(update)
        elif decide.commit:
            self._fail(update, f"epoch {decide.epoch} was committed, and this rank was not ready for it")
        else:
            self._leave(update, decide.reason)
        ok = self.phase is not Phase.FAILED or (not decide.commit and update.was is Phase.FAILED)
        return self._vote(decide.session, Step.DONE, decide.coordinator, ok, self.reason, now)

    def _decided_elsewhere(self, decide: Decide, now: float) -> list[Outgoing]:
        """The decision on a session that is not open here: it came a second time, or it ended here, or is unknown."""
        if self._history.word(decide.session, Step.DONE)[0] is not None:
            return []
        if not decide.commit:
            if self._history.ending(decide.session) is None:
                self._end(decide.session, decide.epoch, f"aborted: {decide.reason}")
            return self._vote(decide.session, Step.DONE, decide.coordinator, True, "", now)
        reason = self._history.why_not(decide.session)
        if self._committed and self._history.word(decide.session, Step.VERIFY)[0] is not True:
            # No commit without this rank's yes. One given before it started again is older than what it has committed
            # since, so this one is a mistake or a forgery: it neither stops the rank nor makes genuine epochs look old.
            return self._vote(decide.session, Step.DONE, decide.coordinator, False, reason, now)
        self._seen = max(self._seen, decide.epoch)
        if self.phase is Phase.SERVING and self.epoch < decide.epoch:
            self._stop(f"epoch {decide.epoch} was committed without this rank: {reason}")
        return self._vote(decide.session, Step.DONE, decide.coordinator, False, self.reason or reason, now)

    def _present(self, probe: Probe) -> Outgoing:
        update = self._open if self._open is not None and self._open.begin.session == probe.session else None
        ending = self._history.ending(probe.session)
        vote, reason = self._history.word(probe.session, probe.step)
        if probe.step is not Step.DONE and ending is not None:
            vote = None  # whatever it was: this rank cannot go on with it
        elif update is not None and update.objection:
            vote, reason = False, update.objection
        if vote is None:
            reason = ending or ("" if update is not None else UNKNOWN)
        return Outgoing(probe.coordinator, Present(probe.session, probe.step, self.rank, vote, reason))

    # How an update ends here.

    def _commit(self, update: OpenUpdate) -> None:
        epoch = update.begin.epoch
        try:
            update.staging.commit()
            self._hooks.committed(epoch)
            self._hooks.resume()
        except Exception as error:  # noqa: BLE001 - told in the vote that ends the update
            self._fail(update, f"could not carry out the commit of epoch {epoch}: {_sentence(error)}")
            return
        self.epoch, self._committed = epoch, True
        self.phase, self.reason = Phase.SERVING, ""
        self._close(update, f"committed epoch {epoch}", committed=True)

    def _leave(self, update: OpenUpdate, why: str) -> None:
        """Abort: the old weights, in the phase that was before."""
        try:
            whole = update.staging.abort()
            if whole and update.was is Phase.SERVING:
                self._hooks.resume()
        except Exception as error:  # noqa: BLE001 - told in the vote that ends the update
            self._fail(update, f"could not go back after an abort ({why}): {_sentence(error)}")
            return
        if not whole:
            self._fail(update, f"weights were overwritten in mode off when the update was aborted: {why}")
            return
        self._seen = update.seen  # the epoch was not used up
        self.phase = update.was
        self._close(update, f"aborted: {why}")

    def _fail(self, update: OpenUpdate, reason: str) -> None:
        self._open = None
        self._stop(reason)
        self._close(update, reason)

    def _stop(self, reason: str) -> None:
        self.phase, self.reason = Phase.FAILED, reason
        try:
            self._hooks.pause()
        except Exception as error:  # noqa: BLE001 - the phase says it already, and `may_serve` is what counts
            self.reason = f"{reason}; and the engine could not be paused: {_sentence(error)}"

    def _close(self, update: OpenUpdate, ending: str, committed: bool = False) -> None:
        self._open = None
        self._end(update.begin.session, update.begin.epoch, ending, committed)

    def _end(self, session: str, epoch: int, ending: str, committed: bool = False) -> None:
        self._history.end(session, ending)
        self._on_end(Ending(session, epoch, committed, ending))

    def _vote(self, session: str, step: Step, coordinator: int, ok: bool, reason: str, now: float) -> list[Outgoing]:
        self._history.vote(session, step, ok, reason)
        return self._relay.vote(session, step, coordinator, ok, reason, now, self._patience)

    @property
    def _patience(self) -> float:
        return (self._deadline(self._open.begin) if self._open else 4.0) / 4

    def _deadline(self, begin: Begin) -> float:
        return min(begin.deadline, self._longest)


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, HardpointError) and str(error) else describe(error)
