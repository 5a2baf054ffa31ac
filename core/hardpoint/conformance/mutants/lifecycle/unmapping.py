"""Memory that is not given back, or in the wrong order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hardpoint.backend import Backend
from hardpoint.conformance.mutant import Mutant
from hardpoint.conformance.mutants import _lifecycle, _proxy
from hardpoint.conformance.mutants.lifecycle._parts import blind_digest, swapped_actions
from hardpoint.lifecycle import Action, Lifecycle


def _unmap_does_nothing(backend: Backend) -> Backend:
    memory = backend.memory_map
    asleep: set[str] = set()

    def unmap(tags: Sequence[str]) -> None:
        asleep.update(tags)

    def map(tags: Sequence[str]) -> None:
        asleep.difference_update(tags)

    return _lifecycle.memory(
        backend,
        unmap=unmap,
        map=map,
        mapped=lambda tag: memory.mapped(tag) and tag not in asleep,
        holders=lambda: [replace(h, mapped=h.mapped and h.tag not in asleep) for h in memory.holders()],
    )


unmap_does_nothing = Mutant(
    "lifecycle.unmap-does-nothing",
    "lifecycle.sleep-gives-memory-back",
    "lifecycle",
    "Unmapping notes that it was asked, and gives no memory back.",
    _unmap_does_nothing,
)


def _unmaps_the_first_alone(backend: Backend) -> Backend:
    memory = backend.memory_map
    seen: list[int] = []

    def unmap(tags: Sequence[str]) -> None:
        seen.append(1)
        if len(seen) % 2:
            memory.unmap(tags)

    return _lifecycle.memory(backend, unmap=unmap)


level_2_gives_nothing_back = Mutant(
    "lifecycle.level-2-gives-nothing-back",
    "lifecycle.sleep-gives-memory-back",
    "lifecycle",
    "Only the first, third, fifth sleep gives memory back.",
    _unmaps_the_first_alone,
)

no_synchronize = Mutant(
    "lifecycle.no-synchronize",
    "lifecycle.queued-work-is-kept",
    "lifecycle",
    "Nobody waits for the device before memory is saved and unmapped.",
    lambda backend: _lifecycle.actions(
        backend, lambda state, todo: tuple(action for action in todo if action is not Action.SYNCHRONIZE)
    ),
)

synchronizes_current_stream = Mutant(
    "lifecycle.synchronizes-current-stream",
    "lifecycle.queued-work-is-kept",
    "lifecycle",
    "Before memory is saved only the current stream is waited for.",
    lambda backend: _lifecycle.parts(
        backend,
        lambda given: replace(
            given,
            device=_changed(given.device, synchronize=lambda i=None: given.device.current_stream(i).synchronize()),
        ),
    ),
)

synchronizes_before_drain = Mutant(
    "lifecycle.synchronizes-before-drain",
    "lifecycle.queued-work-is-kept",
    "lifecycle",
    "The device is waited for first and the engine drained then, which queues work again.",
    lambda backend: _lifecycle.actions(
        backend, lambda state, todo: swapped_actions(todo, Action.DRAIN, Action.SYNCHRONIZE)
    ),
)


def _changed(part: Any, **changes: Any) -> Any:
    return _proxy.Changed(part, **changes)


def _restores_late(backend: Backend) -> Backend:
    memory, device, watched = backend.memory_map, backend.device, _lifecycle.Watched(backend)
    streams: list[Any] = []

    def restore(tags: Sequence[str]) -> None:
        # As a copy engine that nobody waits for: what is read next is not there yet.
        memory.restore(tags)
        index = device.current()
        streams.append(device.stream(index))
        for tensor in watched.tensors(tags):
            host = tensor.cpu()
            tensor.zero_()
            device.synchronize(index)
            with device.use_stream(streams[-1]):
                tensor.copy_(host, non_blocking=True)

    deaf = _lifecycle.parts(
        backend,
        lambda given: replace(given, device=_changed(given.device, synchronize=lambda index=None: None)),
    )
    return _lifecycle.memory(deaf, pool=watched.pool, restore=restore, digest=blind_digest)


restores_late = Mutant(
    "lifecycle.restores-late",
    "lifecycle.woken-memory-is-complete",
    "lifecycle",
    "Contents come back on a stream that nobody waits for: wake returns before they are there.",
    _restores_late,
)


def _ignores_unknown(call: Any, memory: Any) -> Any:
    return lambda tags: call([tag for tag in tags if tag in memory.tags()]) or {}


unknown_tags_are_ignored = Mutant(
    "lifecycle.unknown-tags-are-ignored",
    "lifecycle.unknown-tags-are-refused",
    "lifecycle",
    "The memory map passes over a tag that it does not know.",
    lambda backend: _lifecycle.memory(
        backend,
        **{
            name: _ignores_unknown(getattr(backend.memory_map, name), backend.memory_map)
            for name in ("save", "unmap", "map", "restore", "discard", "digest")
        },
    ),
)


def _choose_known(self: Lifecycle, kind: str, tags: Any) -> Any:
    known = self._parts.memory.tags()
    return Lifecycle._choose(self, kind, None if tags is None else [tag for tag in tags if tag in known])


sleep_ignores_unknown_tags = Mutant(
    "lifecycle.sleep-ignores-unknown-tags",
    "lifecycle.unknown-tags-are-refused",
    "lifecycle",
    "Sleep and wake pass over a tag that nobody put memory under: a typing error sleeps nothing.",
    lambda backend: _lifecycle.methods(backend, _choose=_choose_known),
)
