"""Different and right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hardpoint.backend import Backend
from hardpoint.communicator.protocol import Verdict
from hardpoint.conformance.mutant import LegalVariant
from hardpoint.conformance.mutants import _lifecycle
from hardpoint.errors import LifecycleError
from hardpoint.lifecycle import Action, Lifecycle, Stage, State

waits_twice = LegalVariant(
    "lifecycle.waits-twice",
    "lifecycle",
    "The device is waited for twice, and once more before memory is unmapped: slow, and right.",
    lambda backend: _lifecycle.actions(
        backend,
        lambda state, todo: tuple(
            a
            for action in todo
            for a in (
                (action, action)
                if action is Action.SYNCHRONIZE
                else (Action.SYNCHRONIZE, action)
                if action in (Action.SAVE, Action.UNMAP)
                else (action,)
            )
        ),
    ),
)


def _one_tag_at_a_time(memory: Any) -> dict[str, Any]:
    def each(name: str) -> Any:
        def call(tags: Sequence[str]) -> None:
            for tag in reversed(tags):
                getattr(memory, name)([tag])

        return call

    return {name: each(name) for name in ("save", "unmap", "map", "restore", "discard")}


one_tag_at_a_time = LegalVariant(
    "lifecycle.one-tag-at-a-time",
    "lifecycle",
    "Tags are saved, unmapped, mapped and restored one by one, the last one first.",
    lambda backend: _lifecycle.memory_of_lifecycle(backend, _one_tag_at_a_time),
)


def _saves_always(self: Lifecycle) -> None:
    tags = self._touched()
    for tag in tags:
        self._digests[tag] = self._parts.memory.digest([tag])
    self._parts.memory.save(tags)


saves_volatile_tags = LegalVariant(
    "lifecycle.saves-volatile-tags",
    "lifecycle",
    "Volatile tags are saved and brought back too: nobody needs it, and nobody minds.",
    lambda backend: _lifecycle.methods(backend, _save=_saves_always),
)

saves_before_the_vote = LegalVariant(
    "lifecycle.saves-before-the-vote",
    "lifecycle",
    "Contents are saved before the first vote: a vote that fails has then cost a copy, and changed nothing.",
    lambda backend: _lifecycle.actions(backend, lambda state, todo: _save_early(state, todo)),
)


def _save_early(state: State, todo: tuple[Action, ...]) -> tuple[Action, ...]:
    level_1 = state.operation is not None and state.operation.kind == "sleep" and state.operation.level == 1
    if state.stage is Stage.PREPARE and Action.DRAIN in todo and level_1:
        return (*todo[:-1], Action.SAVE, todo[-1])
    return tuple(action for action in todo if action is not Action.SAVE)


def _votes_twice(voter: Any, ok: bool, subject: str, **more: Any) -> Verdict:
    first: Verdict = voter.vote(ok, subject, **more)
    if not first.unanimous:
        return first
    again: Verdict = voter.vote(ok, f"{subject} (again)", **more)
    return again


votes_twice = LegalVariant(
    "lifecycle.votes-twice",
    "lifecycle",
    "Every vote that was unanimous is taken again: one round more, and the same answer.",
    lambda backend: _lifecycle.voter(backend, _votes_twice),
)


def _eager_copies(backend: Backend) -> Backend:
    memory = backend.memory_map

    def restore(tags: Sequence[str]) -> None:
        memory.restore(tags)
        memory.restore(tags)

    def unmap(tags: Sequence[str]) -> None:
        for tag in tags:
            memory.unmap([tag])
        memory.unmap(tags)

    return _lifecycle.memory(backend, restore=restore, unmap=unmap)


repeats_steps = LegalVariant(
    "lifecycle.repeats-steps",
    "lifecycle",
    "The memory map unmaps and restores everything twice.",
    _eager_copies,
)


def _refuses_adoption(tag: str, tensors: Any) -> None:
    raise LifecycleError(f"{', '.join(tensors)}: only memory from a pool can sleep; allocate it inside pool('{tag}')")


pools_only = LegalVariant(
    "lifecycle.pools-only",
    "lifecycle",
    "Existing tensors cannot be adopted, and the refusal names them.",
    lambda backend: _lifecycle.memory(backend, adopt=_refuses_adoption),
)

other_digests = LegalVariant(
    "lifecycle.other-digests",
    "lifecycle",
    "Digests are longer, and written in another way.",
    lambda backend: _lifecycle.memory(
        backend, digest=lambda tags: {k: f"v2:{v}:{len(v)}" for k, v in backend.memory_map.digest(tags).items()}
    ),
)
