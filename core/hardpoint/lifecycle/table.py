"""The state table of sleep and wake: ``transition(state, event) -> (state, actions)``, and nothing else.

Pure, so that it can be explored exhaustively. Actions are carried out in order; a batch that ends with a vote is
followed by `Voted` or `VoteLost`, an action that raises by `Raised` instead. A batch without a vote ends the operation.

Three rules carry the design (vLLM #45519): nothing changes before a vote; a rank that fails votes no, so that nobody
waits for it; and a rank that voted yes without learning the outcome serves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hardpoint.lifecycle.states import Action, Asked, Event, Phase, Raised, Stage, State, Voted, VoteLost

Step = tuple[State, tuple[Action, ...]]
Transition = Callable[[State, Event], Step]

_VOTE = (Action.VOTE,)


def transition(state: State, event: Event) -> Step:
    """Next state and what to do. ValueError for an event that cannot happen in this state."""
    if state.phase is Phase.FAILED and state.stage is Stage.REST:
        raise ValueError(f"nothing can happen to a rank that is FAILED ({state.reason}), got {event}")
    if isinstance(event, Asked):
        return _ask(state, event)
    if isinstance(event, Raised):
        return _object(state, event)
    if state.operation is None:
        raise ValueError(f"a vote ended and no operation is under way: {event}")
    state = replace(state, missing=event.missing if isinstance(event, Voted) else state.missing)
    if isinstance(event, VoteLost):
        if state.stage in (Stage.PREPARE, Stage.CLAIM) and state.objection:
            return _rest(state, f"{state.objection}; {event.reason}")
        return _fail(state, f"the outcome of the vote '{state.stage.value}' is not known here: {event.reason}")
    if state.lasting and state.stage not in (Stage.PREPARE, Stage.CLAIM):
        return _fail(state, state.objection)
    return _VOTED[state.stage](state, event)


def _ask(state: State, event: Asked) -> Step:
    if state.stage is not Stage.REST:
        raise ValueError(f"{event.operation} was asked for while {state.operation} is under way")
    operation = event.operation
    asked = replace(state, operation=operation, objection=event.problem, reason="", lasting=False, undo=False)
    if operation.kind == "sleep":
        touched = frozenset() if event.problem else operation.tags - state.asleep
        asked = replace(asked, stage=Stage.PREPARE, touched=touched)
        if not touched:
            return asked, _VOTE
        drained = (Action.CLOSE_ADMISSION, Action.DRAIN, Action.SYNCHRONIZE, Action.VOTE)
        return replace(asked, phase=Phase.DRAINING), drained
    if operation.kind == "wake":
        touched = frozenset() if event.problem else operation.tags & state.asleep
        if not touched:
            return replace(asked, stage=Stage.PREPARE, touched=touched), _VOTE
        remap = (Action.MAP, Action.RESTORE, Action.SYNCHRONIZE, Action.CHECK_DIGEST, Action.VOTE)
        return replace(asked, stage=Stage.REMAP, touched=touched, undo=True), remap
    touched = frozenset() if event.problem else operation.tags & state.undefined
    claim = replace(asked, stage=Stage.CLAIM, touched=touched)
    return claim, (_VOTE if event.problem else (Action.SYNCHRONIZE, Action.VOTE))


def _object(state: State, event: Raised) -> Step:
    """A rank that failed says so in the vote ahead; it leaves nobody waiting."""
    reason = f"{event.action.value}: {event.reason}"
    if state.stage is Stage.REST:
        return _fail(state, reason)
    # A save that failed has unmapped nothing, so that there is nothing to bring back.
    undo = state.undo and not (state.stage is Stage.COMMIT and event.action is Action.SAVE)
    return replace(state, objection=reason, lasting=state.lasting or event.lasting, undo=undo), _VOTE


def _prepared(state: State, vote: Voted) -> Step:
    if not vote.unanimous:
        return _rest(state, vote.reason)
    if not state.touched:
        return _rest(state)
    assert state.operation is not None
    unmap = (Action.SAVE, Action.UNMAP, Action.VOTE) if state.operation.level == 1 else (Action.UNMAP, Action.VOTE)
    return replace(state, phase=Phase.QUIESCED, stage=Stage.COMMIT, undo=True), unmap


def _committed(state: State, vote: Voted) -> Step:
    if vote.missing:
        return _fail(state, vote.reason)
    if vote.unanimous:
        asleep = state.asleep | state.touched
        slept = replace(state, asleep=asleep, undefined=state.undefined | _lost(state), epoch=state.epoch + 1)
        return _rest(slept)
    assert state.operation is not None
    back: tuple[Action, ...] = ()
    if state.undo:
        back = (Action.MAP, Action.RESTORE, Action.SYNCHRONIZE, Action.CHECK_DIGEST)
    retry = replace(state, stage=Stage.ROLLBACK, objection="", reason=vote.reason)
    return retry, (*back, Action.VOTE)


def _rolled_back(state: State, vote: Voted) -> Step:
    if not vote.unanimous:
        return _fail(state, f"{state.reason}; and the rollback failed: {vote.reason}")
    # At level 2 nothing was saved: a rank that had unmapped has memory again, and nobody's values.
    back = replace(state, undefined=state.undefined | _lost(state))
    if back.asleep or back.undefined:
        return _rest(back, back.reason, Action.DISCARD)
    # Resuming may raise as well, and then no rank may serve alone: it needs a vote like any other step.
    return replace(back, phase=Phase.REMAPPED, stage=Stage.ADMIT), (Action.RESUME, Action.VOTE)


def _remapped(state: State, vote: Voted) -> Step:
    if vote.missing:
        return _fail(state, vote.reason)
    if not vote.unanimous:
        retreat = replace(state, stage=Stage.RETREAT, objection="", reason=vote.reason)
        return retreat, (Action.SYNCHRONIZE, Action.UNMAP, Action.VOTE)
    woken = replace(state, asleep=state.asleep - state.touched, objection="")
    if woken.asleep or woken.undefined:
        return _rest(woken, "", Action.DISCARD)
    return replace(woken, phase=Phase.REMAPPED, stage=Stage.ADMIT), (Action.RESUME, Action.VOTE)


def _retreated(state: State, vote: Voted) -> Step:
    if not vote.unanimous:
        return _fail(state, f"{state.reason}; and unmapping again failed: {vote.reason}")
    return _rest(state, state.reason)


def _claimed(state: State, vote: Voted) -> Step:
    if not vote.unanimous:
        return _rest(state, vote.reason)
    written = replace(state, undefined=state.undefined - state.touched)
    if written.asleep or written.undefined or state.phase is Phase.RUNNING:
        return _rest(written)
    return replace(written, stage=Stage.ADMIT), (Action.RESUME, Action.VOTE)


def _admitted(state: State, vote: Voted) -> Step:
    if not vote.unanimous:
        return _fail(state, "; and then ".join(text for text in (state.reason, vote.reason) if text))
    return _rest(state, state.reason, Action.DISCARD)  # a rollback ends here with the reason that it had


_VOTED: dict[Stage, Callable[[State, Voted], Step]] = {
    Stage.PREPARE: _prepared,
    Stage.COMMIT: _committed,
    Stage.ROLLBACK: _rolled_back,
    Stage.REMAP: _remapped,
    Stage.RETREAT: _retreated,
    Stage.CLAIM: _claimed,
    Stage.ADMIT: _admitted,
}


def _lost(state: State) -> frozenset[str]:
    """Tags whose contents the sleep under way does not keep and somebody needs."""
    assert state.operation is not None
    return frozenset() if state.operation.level == 1 else state.touched - state.operation.volatile


def _rest(state: State, reason: str = "", *actions: Action) -> Step:
    """End the operation in the phase that the tags say; open admission where that is RUNNING."""
    phase = Phase.ASLEEP if state.asleep else Phase.REMAPPED if state.undefined else Phase.RUNNING
    opening = (Action.OPEN_ADMISSION,) if phase is Phase.RUNNING else ()
    # `touched` and `operation` stay readable until the last actions are done; the next `Asked` replaces both.
    return replace(state, phase=phase, stage=Stage.REST, objection="", reason=reason), (*actions, *opening)


def _fail(state: State, reason: str) -> Step:
    return replace(state, phase=Phase.FAILED, stage=Stage.REST, reason=reason), ()
