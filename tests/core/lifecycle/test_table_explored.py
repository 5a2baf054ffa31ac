"""The state table, explored: all ranks, all faults, all steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hardpoint.lifecycle.states import Action, Event, Operation, Phase, Stage, State, Voted
from hardpoint.lifecycle.table import Step, Transition, transition
from support.lifecycle_explorer import Explorer, Violation

ALL = frozenset({"weights", "kv_cache"})
WEIGHTS, KV = frozenset({"weights"}), frozenset({"kv_cache"})


def op(kind: str, op_id: int, tags: frozenset[str] = ALL, level: int = 1) -> Operation:
    return Operation(kind, op_id, tags, level, KV)


CYCLE = [op("sleep", 1), op("wake", 2), op("sleep", 3)]
PARTIAL = [op("sleep", 1, KV), op("sleep", 2, WEIGHTS), op("sleep", 3), op("wake", 4, WEIGHTS), op("wake", 5)]
LEVEL_2 = [op("sleep", 1, level=2), op("wake", 2), op("commit", 3, WEIGHTS), op("wake", 4)]
SCRIPTS = {"cycle": CYCLE, "partial": PARTIAL, "level 2": LEVEL_2}


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
@pytest.mark.parametrize(("ranks", "faults"), [(2, 2), (3, 1)])
def test_no_fault_leads_to_a_torn_engine(script: str, ranks: int, faults: int) -> None:
    assert Explorer(transition, ranks, faults).run(SCRIPTS[script]) > 100


def test_without_faults_every_script_ends_in_one_way() -> None:
    assert Explorer(transition, 2, 0).run(CYCLE) == len(CYCLE)


def _unmap_before_the_vote(state: State, event: Event) -> Step:
    after, actions = transition(state, event)
    if after.stage is Stage.PREPARE and Action.DRAIN in actions:
        actions = (*actions[:-1], Action.UNMAP, Action.VOTE)
    return after, actions


def _no_drain(state: State, event: Event) -> Step:
    after, actions = transition(state, event)
    return after, tuple(a for a in actions if a not in (Action.CLOSE_ADMISSION, Action.SYNCHRONIZE))


def _no_second_vote(state: State, event: Event) -> Step:
    after, actions = transition(state, event)
    if after.stage is Stage.COMMIT and isinstance(event, Voted):
        slept = replace(after, stage=Stage.REST, phase=Phase.ASLEEP, asleep=after.asleep | after.touched)
        return slept, actions[:-1]
    return after, actions


def _barrier_instead_of_vote(state: State, event: Event) -> Step:
    if isinstance(event, Voted) and not event.missing:
        event = Voted(True)
    return transition(replace(state, objection=""), event)


def _serves_after_level_2(state: State, event: Event) -> Step:
    after, actions = transition(replace(state, undefined=frozenset()), event)
    return replace(after, undefined=frozenset()), actions


def _missing_ranks_are_ignored(state: State, event: Event) -> Step:
    if isinstance(event, Voted) and event.missing:
        event = Voted(True)
    return transition(state, event)


def _admits_half_awake(state: State, event: Event) -> Step:
    after, actions = transition(state, event)
    if after.stage is Stage.REST and after.phase is Phase.ASLEEP and state.stage is Stage.REMAP:
        return replace(after, phase=Phase.RUNNING, asleep=frozenset()), (*actions, Action.OPEN_ADMISSION)
    return after, actions


def _rollback_without_restore(state: State, event: Event) -> Step:
    after, actions = transition(state, event)
    if after.stage is Stage.ROLLBACK:
        actions = tuple(a for a in actions if a is not Action.RESTORE)
    return after, actions


BROKEN: dict[str, Transition] = {
    "unmap before the vote": _unmap_before_the_vote,
    "no drain": _no_drain,
    "no second vote": _no_second_vote,
    "barrier instead of vote": _barrier_instead_of_vote,
    "serves after level 2": _serves_after_level_2,
    "missing ranks are ignored": _missing_ranks_are_ignored,
    "admits half awake": _admits_half_awake,
    "rollback without restore": _rollback_without_restore,
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_explorer_sees_a_broken_table(name: str) -> None:
    with pytest.raises(Violation):
        for script in SCRIPTS.values():
            Explorer(BROKEN[name], 2, 1).run(script)


def test_nothing_happens_to_a_failed_rank() -> None:
    with pytest.raises(ValueError, match="FAILED"):
        transition(State(phase=Phase.FAILED, reason="planted"), Voted(True))
