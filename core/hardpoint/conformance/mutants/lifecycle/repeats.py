"""Steps that may be done once only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hardpoint.backend import Backend
from hardpoint.conformance.mutant import Mutant
from hardpoint.conformance.mutants import _lifecycle, _proxy
from hardpoint.lifecycle import Lifecycle


def _save_poison(backend: Backend) -> Backend:
    memory = backend.memory_map

    def save(tags: Sequence[str]) -> None:
        for tag in tags:
            if memory.mapped(tag):
                memory.save([tag])
                continue
            memory.map([tag])
            memory.save([tag])
            memory.unmap([tag])

    return _lifecycle.memory(backend, save=save)


saves_unmapped_memory = Mutant(
    "lifecycle.saves-unmapped-memory",
    "lifecycle.steps-out-of-order-are-refused",
    "lifecycle",
    "Memory that is not mapped can be saved: poison over the good copy.",
    _save_poison,
)


def _sleep_again(backend: Backend) -> Backend:
    def sleep(self: Lifecycle, tags: Any = None, *, level: int = 1, op_id: int | None = None) -> Any:
        memory, asleep = self._parts.memory, sorted(self._state.asleep)
        if asleep and level == 1:
            memory.map(asleep)
            memory.save(asleep)
            for tag in asleep:
                self._digests[tag] = memory.digest([tag])
            memory.unmap(asleep)
        return Lifecycle.sleep(self, tags, level=level, op_id=op_id)

    return _lifecycle.methods(backend, sleep=sleep)


second_sleep_saves_poison = Mutant(
    "lifecycle.second-sleep-saves-poison",
    "lifecycle.twice-is-once",
    "lifecycle",
    "A second sleep saves what is behind a tag that sleeps already: poison over the good copy.",
    _sleep_again,
)


def _counts_twice(backend: Backend) -> Backend:
    memory, device = backend.memory_map, backend.device
    extra = {"bytes": 0}

    def unmap(tags: Sequence[str]) -> None:
        again = [h.nbytes for h in memory.holders() if h.tag in tags and not h.mapped]
        extra["bytes"] += sum(again)
        memory.unmap(tags)

    def counted(index: int | None = None) -> Any:
        info = device.memory(index)
        return replace(info, allocated=max(0, info.allocated - extra["bytes"]), free=info.free + extra["bytes"])

    return _lifecycle.memory(_proxy.device(backend, memory=counted), unmap=unmap)


unmaps_twice = Mutant(
    "lifecycle.unmaps-twice",
    "lifecycle.every-step-may-be-repeated",
    "lifecycle",
    "Unmapping what is not mapped gives its bytes back a second time.",
    _counts_twice,
)


def _map_clears(backend: Backend) -> Backend:
    memory = backend.memory_map

    def map(tags: Sequence[str]) -> None:
        memory.unmap(tags)
        memory.map(tags)

    return _lifecycle.memory(backend, map=map)


mapping_again_loses_contents = Mutant(
    "lifecycle.mapping-again-loses-contents",
    "lifecycle.every-step-may-be-repeated",
    "lifecycle",
    "Mapping memory that is mapped puts fresh memory there.",
    _map_clears,
)


def _restore_without_copy(backend: Backend) -> Backend:
    memory = backend.memory_map

    def restore(tags: Sequence[str]) -> None:
        saved = [tag for tag in tags if all(h.saved for h in memory.holders() if h.tag == tag)]
        if saved:
            memory.restore(saved)

    return _lifecycle.memory(backend, restore=restore)


restores_nothing_in_silence = Mutant(
    "lifecycle.restores-nothing-in-silence",
    "lifecycle.steps-out-of-order-are-refused",
    "lifecycle",
    "Restoring what was never saved does nothing and says nothing.",
    _restore_without_copy,
)
