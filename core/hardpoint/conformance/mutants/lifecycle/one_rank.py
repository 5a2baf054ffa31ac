"""Faults of the state machine on one rank."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from hardpoint.backend import Backend
from hardpoint.conformance.mutant import Mutant
from hardpoint.conformance.mutants import _lifecycle
from hardpoint.conformance.mutants.lifecycle._parts import swapped_actions, true_health
from hardpoint.errors import LifecycleError
from hardpoint.lifecycle import Action, Lifecycle, Stage, State

unmap_before_sync = Mutant(
    "lifecycle.unmap-before-sync",
    "lifecycle.steps-are-in-order",
    "lifecycle",
    "The device is waited for after memory was unmapped, not before.",
    lambda backend: _lifecycle.actions(backend, lambda state, todo: _sync_after_unmap(state, todo)),
)


def _sync_after_unmap(state: State, todo: tuple[Action, ...]) -> tuple[Action, ...]:
    if state.stage is Stage.PREPARE:
        return tuple(action for action in todo if action is not Action.SYNCHRONIZE)
    if state.stage is Stage.COMMIT:
        return tuple(
            a for action in todo for a in ((action, Action.SYNCHRONIZE) if action is Action.UNMAP else (action,))
        )
    return todo


unmaps_before_it_saves = Mutant(
    "lifecycle.unmaps-before-it-saves",
    "lifecycle.steps-are-in-order",
    "lifecycle",
    "Memory is unmapped first and saved then.",
    lambda backend: _lifecycle.actions(backend, lambda state, todo: swapped_actions(todo, Action.SAVE, Action.UNMAP)),
)

never_drains = Mutant(
    "lifecycle.never-drains",
    "lifecycle.steps-are-in-order",
    "lifecycle",
    "Requests in flight are not waited for.",
    lambda backend: _lifecycle.actions(
        backend, lambda state, todo: tuple(action for action in todo if action is not Action.DRAIN)
    ),
)

epoch_of_wakes = Mutant(
    "lifecycle.epoch-of-wakes",
    "lifecycle.any-sequence-is-lawful",
    "lifecycle",
    "The epoch counts wakes as well.",
    lambda backend: _lifecycle.table(
        backend,
        lambda before, event, step: (
            replace(step[0], epoch=step[0].epoch + (before.stage is Stage.REMAP and step[0].stage is not Stage.REMAP)),
            step[1],
        ),
    ),
)


def _wakes_everything(self: Lifecycle, kind: str, tags: Any) -> Any:
    return Lifecycle._choose(self, kind, None if kind == "wake" else tags)


wake_ignores_tags = Mutant(
    "lifecycle.wake-ignores-tags",
    "lifecycle.any-sequence-is-lawful",
    "lifecycle",
    "Wake brings all tags back, whichever were asked for.",
    lambda backend: _lifecycle.methods(backend, _choose=_wakes_everything),
)


def _wake_needs_no_sleep(self: Lifecycle, kind: str, tags: Any) -> Any:
    chosen, problem = Lifecycle._choose(self, kind, tags)
    return chosen, "" if "never slept" in problem else problem


wake_needs_no_sleep = Mutant(
    "lifecycle.wake-needs-no-sleep",
    "lifecycle.wake-before-sleep-is-refused",
    "lifecycle",
    "A wake of an engine that never slept succeeds.",
    lambda backend: _lifecycle.methods(backend, _choose=_wake_needs_no_sleep),
)

level_2_pretends = Mutant(
    "lifecycle.level-2-pretends",
    "lifecycle.level-2-loses-contents",
    "lifecycle",
    "After a level 2 sleep and a wake the contents count as fine.",
    lambda backend: _lifecycle.table(
        backend, lambda before, event, step: (replace(step[0], undefined=frozenset()), step[1])
    ),
)

commit_of_one_is_all = Mutant(
    "lifecycle.commit-of-one-is-all",
    "lifecycle.level-2-loses-contents",
    "lifecycle",
    "A weight update that has written one tag counts for all tags.",
    lambda backend: _lifecycle.methods(
        backend, _choose=lambda self, kind, tags: Lifecycle._choose(self, kind, None if kind == "commit" else tags)
    ),
)

serving_is_a_phase = Mutant(
    "lifecycle.level-2-serves",
    "lifecycle.level-2-keeps-addresses",
    "lifecycle",
    "Whoever is awake serves, whether or not the contents were lost.",
    lambda backend: _lifecycle.methods(
        backend,
        health=lambda self: (lambda h: replace(h, serving=h.serving or h.phase == "REMAPPED"))(true_health(self)),
    ),
)


admission_stays_open = Mutant(
    "lifecycle.admission-stays-open",
    "lifecycle.admission-is-closed-while-asleep",
    "lifecycle",
    "Requests are admitted until memory is about to be unmapped.",
    lambda backend: _lifecycle.actions(backend, lambda state, todo: _moved_to_end(todo, Action.CLOSE_ADMISSION)),
)


def _moved_to_end(todo: tuple[Action, ...], action: Action) -> tuple[Action, ...]:
    if action not in todo:
        return todo
    rest = [other for other in todo if other is not action]
    return (*rest[:-1], action, rest[-1])


wakes_with_half = Mutant(
    "lifecycle.admits-with-half",
    "lifecycle.admission-is-closed-while-asleep",
    "lifecycle",
    "Admission opens as soon as one tag is awake.",
    lambda backend: _lifecycle.table(backend, lambda before, event, step: _open_after_remap(before, step)),
)


def _open_after_remap(before: State, step: tuple[State, tuple[Action, ...]]) -> tuple[State, tuple[Action, ...]]:
    state, todo = step
    if before.stage is Stage.REMAP and state.stage is Stage.REST and state.asleep:
        return state, (*todo, Action.OPEN_ADMISSION)
    return step


def _waits_its_turn(backend: Backend) -> Backend:
    class Patient(Lifecycle):
        def _operate(self, kind: str, tags: Any, level: int, op_id: int | None) -> Any:
            end = time.monotonic() + 5.0
            while self._busy.locked() and time.monotonic() < end:
                time.sleep(0.01)
            return super()._operate(kind, tags, level, op_id)

    return replace(backend, lifecycle=Patient)


waits_its_turn = Mutant(
    "lifecycle.waits-its-turn",
    "lifecycle.one-operation-at-a-time",
    "lifecycle",
    "An operation that is asked for while another is under way waits, and then runs in an order nobody chose.",
    _waits_its_turn,
)


def _trusts_kept_copies(self: Lifecycle) -> None:
    tags = sorted(self._state.touched - self._parts.volatile)
    for tag in tags:
        self._digests[tag] = self._kept.setdefault(tag, self._parts.memory.digest([tag]))
    bare = {held.tag for held in self._parts.memory.holders() if not held.saved}
    if bare & set(tags):
        self._parts.memory.save(sorted(bare & set(tags)))


kept_copies_are_trusted = Mutant(
    "lifecycle.kept-copies-are-trusted",
    "lifecycle.kept-copies-are-not-stale",
    "lifecycle",
    "A copy that was kept is not written again: the next wake brings back the weights of an earlier update.",
    lambda backend: _lifecycle.methods(backend, _save=_trusts_kept_copies),
)

digest_check_skipped = Mutant(
    "lifecycle.digest-check-skipped",
    "lifecycle.wrong-contents-are-not-served",
    "lifecycle",
    "Contents are compared with nothing after wake.",
    lambda backend: _lifecycle.methods(backend, _check_digest=lambda self: None),
)


def _checks_first_tag(self: Lifecycle) -> None:
    first = self._touched()[:1]
    for tag in first:
        if tag in self._digests and self._parts.memory.digest([tag]) != self._digests[tag]:
            raise LifecycleError(f"{tag}: the contents are not those that were put to sleep")


digest_check_of_first_tag = Mutant(
    "lifecycle.digest-check-of-first-tag",
    "lifecycle.wrong-contents-are-not-served",
    "lifecycle",
    "Only the first tag is compared after wake.",
    lambda backend: _lifecycle.methods(backend, _check_digest=_checks_first_tag),
)
