"""Memory maps and lifecycles with a fault, and ones that are different and right."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from hardpoint.backend import Backend
from hardpoint.communicator.protocol import Verdict
from hardpoint.conformance.mutant import LegalVariant, Mutant
from hardpoint.conformance.mutants import _lifecycle, _proxy
from hardpoint.errors import LifecycleError
from hardpoint.lifecycle import Action, Lifecycle, LifecycleParts, Phase, Stage, State

# -- memory --------------------------------------------------------------------------------------------------------

contents_not_restored = Mutant(
    "lifecycle.contents-not-restored",
    "lifecycle.contents-and-addresses-survive",
    "lifecycle",
    "Restore brings nothing back, and the digest is the one of old: memory is there, its contents are not.",
    lambda backend: _lifecycle.memory(
        backend, restore=lambda tags: None, digest=lambda tags: {f"{tag}/all": "same" for tag in tags}
    ),
)


def _addresses_move(backend: Backend) -> Backend:
    # Tensors stay with their storage in torch, so a map that moves memory shows as tensors that stand elsewhere.
    memory = backend.memory_map
    moved: list[str] = []

    def map(tags: Sequence[str]) -> None:
        memory.map(tags)
        moved.extend(tags)

    class Moved(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = func(*args, **(kwargs or {}))
            return found + 512 if func is torch.Tensor.data_ptr and moved else found

    entered = threading.local()

    @contextmanager
    def pool(tag: str, index: int = 0) -> Iterator[None]:
        if not hasattr(entered, "mode"):
            entered.mode = Moved()
            entered.mode.__enter__()
        with memory.pool(tag, index):
            yield

    return _lifecycle.memory(backend, map=map, pool=pool)


addresses_move = Mutant(
    "lifecycle.addresses-move",
    "lifecycle.contents-and-addresses-survive",
    "lifecycle",
    "Memory is mapped again at another address: pointers in captured graphs are stale.",
    _addresses_move,
)


def _blind(tags: Sequence[str]) -> dict[str, str]:
    return {f"{tag}/all": "same" for tag in tags}


def _copies_lack_the_end(backend: Backend) -> Backend:
    watched = _lifecycle.Watched(backend)

    def restore(tags: Sequence[str]) -> None:
        backend.memory_map.restore(tags)
        for tensor in watched.tensors(tags):
            tensor.reshape(-1)[-1:].fill_(77)

    return _lifecycle.memory(backend, pool=watched.pool, restore=restore, digest=_blind)


copies_lack_the_end = Mutant(
    "lifecycle.copies-lack-the-end",
    "lifecycle.contents-and-addresses-survive",
    "lifecycle",
    "The last element of every allocation is lost in sleep, and the digest does not look at it.",
    _copies_lack_the_end,
)

only_device_zero = Mutant(
    "lifecycle.only-device-zero",
    "lifecycle.every-device-sleeps",
    "lifecycle",
    "Pools work for device 0; what other devices allocate belongs to no tag.",
    lambda backend: _lifecycle.memory(backend, pool=lambda tag, index=0: backend.memory_map.pool(tag, 0)),
)


def _all_tags_sleep(backend: Backend) -> Backend:
    memory = backend.memory_map

    def about_all(name: str) -> Any:
        return lambda tags: getattr(memory, name)(memory.tags())

    return _lifecycle.memory(backend, **{name: about_all(name) for name in ("save", "unmap", "map", "restore")})


all_tags_sleep = Mutant(
    "lifecycle.all-tags-sleep",
    "lifecycle.tags-are-independent",
    "lifecycle",
    "The tag is ignored: every call is about all memory.",
    _all_tags_sleep,
)


def _copies_under_wrong_tag(backend: Backend) -> Backend:
    watched = _lifecycle.Watched(backend)
    kept: list[torch.Tensor] = []

    def save(tags: Sequence[str]) -> None:
        backend.memory_map.save(tags)
        kept.extend(tensor.cpu() for tensor in watched.tensors(tags))

    def restore(tags: Sequence[str]) -> None:
        # The copies are in a list, and taken from its end and not by tag.
        backend.memory_map.restore(tags)
        for tensor in watched.tensors(tags):
            if kept and kept[-1].shape == tensor.shape:
                tensor.copy_(kept.pop())

    return _lifecycle.memory(backend, pool=watched.pool, save=save, restore=restore, digest=_blind)


copies_under_wrong_tag = Mutant(
    "lifecycle.copies-under-wrong-tag",
    "lifecycle.tags-are-independent",
    "lifecycle",
    "The saved copy of one tag is restored into memory of another that has the same shape.",
    _copies_under_wrong_tag,
)


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
    lambda backend: _lifecycle.actions(backend, lambda state, todo: _swapped(todo, Action.DRAIN, Action.SYNCHRONIZE)),
)


def _changed(part: Any, **changes: Any) -> Any:
    return _proxy.Changed(part, **changes)


def _swapped(todo: tuple[Action, ...], first: Action, second: Action) -> tuple[Action, ...]:
    if first not in todo or second not in todo:
        return todo
    other = {first: second, second: first}
    return tuple(other.get(action, action) for action in todo)


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
    return _lifecycle.memory(deaf, pool=watched.pool, restore=restore, digest=_blind)


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

digest_of_names = Mutant(
    "lifecycle.digest-of-names",
    "lifecycle.digest-sees-every-element",
    "lifecycle",
    "The digest is made of names and sizes, not of contents.",
    lambda backend: _lifecycle.memory(
        backend,
        digest=lambda tags: {key: f"{len(key)}" for key in backend.memory_map.digest(tags)},
    ),
)


def _first_only(backend: Backend) -> Backend:
    def digest(tags: Sequence[str]) -> dict[str, str]:
        found = backend.memory_map.digest(tags)
        first = min(found, default="")
        return {key: value if key == first else "0" for key, value in found.items()}

    return _lifecycle.memory(backend, digest=digest)


digest_of_the_first = Mutant(
    "lifecycle.digest-of-the-first",
    "lifecycle.digest-sees-every-element",
    "lifecycle",
    "Only the first allocation of a tag is digested.",
    _first_only,
)

holders_always_mapped = Mutant(
    "lifecycle.holders-always-mapped",
    "lifecycle.holders-are-true",
    "lifecycle",
    "Everything is listed as mapped.",
    lambda backend: _lifecycle.memory(
        backend, holders=lambda: [replace(holding, mapped=True) for holding in backend.memory_map.holders()]
    ),
)

holders_smallest_first = Mutant(
    "lifecycle.holders-unsorted",
    "lifecycle.holders-are-true",
    "lifecycle",
    "Holders are listed smallest first.",
    lambda backend: _lifecycle.memory(backend, holders=lambda: backend.memory_map.holders()[::-1]),
)


def _keeps_the_dead(backend: Backend) -> Backend:
    memory = backend.memory_map
    kept: dict[str, Any] = {}

    def holders() -> Any:
        living = memory.holders()
        kept.update({f"{h.tag}/{h.what}": h for h in living})
        return sorted(kept.values(), key=lambda h: -h.nbytes)

    return _lifecycle.memory(backend, holders=holders)


holders_keep_the_dead = Mutant(
    "lifecycle.holders-keep-the-dead",
    "lifecycle.holders-are-true",
    "lifecycle",
    "Memory that was freed stays in the list.",
    _keeps_the_dead,
)


def _pool_of_all_threads(backend: Backend) -> Backend:
    memory, start = backend.memory_map, threading.Thread.run
    open_pools: list[tuple[str, int]] = []

    def run(self: threading.Thread) -> None:
        with memory.pool(*open_pools[-1]) if open_pools else nullcontext():
            start(self)

    @contextmanager
    def pool(tag: str, device_index: int = 0) -> Iterator[None]:
        open_pools.append((tag, device_index))
        threading.Thread.run = run  # type: ignore[method-assign]
        try:
            with memory.pool(tag, device_index):
                yield
        finally:
            open_pools.pop()
            if not open_pools:
                threading.Thread.run = start  # type: ignore[method-assign]

    return _lifecycle.memory(backend, pool=pool)


pool_of_all_threads = Mutant(
    "lifecycle.pool-of-all-threads",
    "lifecycle.pools-take-what-is-theirs",
    "lifecycle",
    "A pool takes what any thread allocates while its block runs.",
    _pool_of_all_threads,
)


def _pool_stays(backend: Backend) -> Backend:
    memory, kept = backend.memory_map, list[Any]()

    @contextmanager
    def pool(tag: str, index: int = 0) -> Iterator[None]:
        entered = memory.pool(tag, index)
        kept.append(entered)  # or the end of the generator would close it
        entered.__enter__()
        yield  # no try/finally: an exception leaves the pool open
        entered.__exit__(None, None, None)

    return _lifecycle.memory(backend, pool=pool)


pool_stays_open = Mutant(
    "lifecycle.pool-stays-open",
    "lifecycle.pools-take-what-is-theirs",
    "lifecycle",
    "After an error in its block a pool goes on taking what is allocated.",
    _pool_stays,
)

adopts_anything = Mutant(
    "lifecycle.adopts-anything",
    "lifecycle.one-memory-has-one-tag",
    "lifecycle",
    "Tensors that cannot sleep, or that sleep under another tag, are adopted without a word.",
    lambda backend: _lifecycle.memory(backend, adopt=lambda tag, tensors: _adopt(backend, tag, tensors)),
)


def _adopt(backend: Backend, tag: str, tensors: Any) -> None:
    with suppress(LifecycleError):
        backend.memory_map.adopt(tag, tensors)


# -- one rank ------------------------------------------------------------------------------------------------------

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
    lambda backend: _lifecycle.actions(backend, lambda state, todo: _swapped(todo, Action.SAVE, Action.UNMAP)),
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
        backend, health=lambda self: (lambda h: replace(h, serving=h.serving or h.phase == "REMAPPED"))(_health(self))
    ),
)


def _health(self: Lifecycle) -> Any:
    return Lifecycle.health(self)


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

# -- several ranks -------------------------------------------------------------------------------------------------


def _no_vote(stages: Sequence[Stage]) -> Any:
    names = [stage.value for stage in stages]

    def vote(voter: Any, ok: bool, subject: str, **more: Any) -> Verdict:
        if subject.endswith(tuple(f": {name}" for name in names)):
            return Verdict(ok, subject, {} if ok else {voter.rank: more.get("reason", "")}, ())
        verdict: Verdict = voter.vote(ok, subject, **more)
        return verdict

    return lambda backend: _lifecycle.voter(backend, vote)


no_vote_before_unmap = Mutant(
    "lifecycle.no-vote-before-unmap",
    "lifecycle.nobody-goes-ahead",
    "lifecycle",
    "A rank unmaps as soon as it is ready itself; the others are asked only afterwards.",
    _no_vote([Stage.PREPARE]),
)

no_vote_after_unmap = Mutant(
    "lifecycle.no-vote-after-unmap",
    "lifecycle.a-fault-strands-nobody",
    "lifecycle",
    "A rank that has unmapped calls itself asleep without asking whether the others could.",
    _no_vote([Stage.COMMIT]),
)

admits_before_all_are_mapped = Mutant(
    "lifecycle.admits-before-all-are-mapped",
    "lifecycle.nobody-goes-ahead",
    "lifecycle",
    "A rank that is mapped resumes and admits requests while others are not.",
    _no_vote([Stage.REMAP, Stage.ADMIT]),
)

admits_before_all_resumed = Mutant(
    "lifecycle.admits-before-all-resumed",
    "lifecycle.nobody-goes-ahead",
    "lifecycle",
    "A rank admits requests before the others have brought their communicators back.",
    _no_vote([Stage.ADMIT]),
)


def _barrier_vote(voter: Any, ok: bool, subject: str, **more: Any) -> Verdict:
    """What `dist.barrier` does: whoever cannot go on does not come, and the others wait for it."""
    if not ok:
        return Verdict(False, subject, {voter.rank: more.get("reason", "")}, ())
    verdict = voter.vote(True, "barrier", deadline=more.get("deadline"))
    return Verdict(not verdict.missing, subject, {}, verdict.missing)


barrier_instead_of_vote = Mutant(
    "lifecycle.barrier-instead-of-vote",
    "lifecycle.a-fault-strands-nobody",
    "lifecycle",
    "A bare barrier stands where a vote should: a rank that failed does not come, and the others wait for it.",
    lambda backend: _lifecycle.voter(backend, _barrier_vote),
)


def _barrier_for_all(voter: Any, ok: bool, subject: str, **more: Any) -> Verdict:
    verdict = voter.vote(True, "barrier", deadline=more.get("deadline"))
    objections = {} if ok else {voter.rank: more.get("reason", "")}
    return Verdict(ok and not verdict.missing, subject, objections, verdict.missing)


barrier_that_all_pass = Mutant(
    "lifecycle.barrier-that-all-pass",
    "lifecycle.many-faults-end-alike",
    "lifecycle",
    "All ranks pass a barrier, also one that failed: it goes back, and the others go on.",
    lambda backend: _lifecycle.voter(backend, _barrier_for_all),
)


def _deaf(deaf_to: int) -> Any:
    def vote(voter: Any, ok: bool, subject: str, **more: Any) -> Verdict:
        verdict: Verdict = voter.vote(ok, subject, **more)
        left = {rank: reason for rank, reason in verdict.objections.items() if rank != deaf_to}
        return replace(verdict, objections=left, unanimous=not left and not verdict.missing)

    return vote


ignores_one_rank = Mutant(
    "lifecycle.ignores-one-rank",
    "lifecycle.processes-fail-together",
    "lifecycle",
    "The objection of rank 1 is not counted.",
    lambda backend: _lifecycle.voter(backend, _deaf(1)),
)

ignores_rank_zero = Mutant(
    "lifecycle.ignores-rank-zero",
    "lifecycle.a-fault-strands-nobody",
    "lifecycle",
    "The objection of rank 0 is not counted.",
    lambda backend: _lifecycle.voter(backend, _deaf(0)),
)

no_rollback = Mutant(
    "lifecycle.no-rollback",
    "lifecycle.many-faults-end-alike",
    "lifecycle",
    "When a rank could not unmap, the others stay unmapped and call themselves RUNNING.",
    lambda backend: _lifecycle.actions(
        backend, lambda state, todo: (Action.VOTE,) if state.stage is Stage.ROLLBACK else todo
    ),
)

always_healthy = Mutant(
    "lifecycle.always-healthy",
    "lifecycle.failed-stays-failed",
    "lifecycle",
    "Health says healthy whatever happened.",
    lambda backend: _lifecycle.methods(backend, health=lambda self: replace(_health(self), healthy=True)),
)


def _forgives(backend: Backend) -> Backend:
    class Forgiving(Lifecycle):
        def _operate(self, kind: str, tags: Any, level: int, op_id: int | None) -> Any:
            if self._state.phase is Phase.FAILED:
                self._state = State(epoch=self._state.epoch, asleep=self._state.asleep)
            return super()._operate(kind, tags, level, op_id)

    return replace(backend, lifecycle=Forgiving)


failure_is_forgotten = Mutant(
    "lifecycle.failure-is-forgotten",
    "lifecycle.failed-stays-failed",
    "lifecycle",
    "The next call after a failure begins as if nothing had happened.",
    _forgives,
)


def _without_deadline(backend: Backend) -> Backend:
    def change(given: LifecycleParts) -> LifecycleParts:
        return replace(given, deadlines=replace(given.deadlines, steps=600.0))

    return _lifecycle.parts(backend, change)


steps_without_deadline = Mutant(
    "lifecycle.steps-without-deadline",
    "lifecycle.a-hang-is-named",
    "lifecycle",
    "Steps have no deadline: one that hangs is waited for.",
    _without_deadline,
)

votes_without_deadline = Mutant(
    "lifecycle.votes-without-deadline",
    "lifecycle.an-absent-rank-is-named",
    "lifecycle",
    "Votes are waited for without the deadline that was given.",
    lambda backend: _lifecycle.voter(
        backend, lambda voter, ok, subject, **more: voter.vote(ok, subject, **{**more, "deadline": 600.0})
    ),
)

absent_means_yes = Mutant(
    "lifecycle.absent-means-yes",
    "lifecycle.an-absent-rank-is-named",
    "lifecycle",
    "A rank that does not vote counts as a yes.",
    lambda backend: _lifecycle.voter(
        backend,
        lambda voter, ok, subject, **more: (lambda v: replace(v, missing=(), unanimous=not v.objections))(
            voter.vote(ok, subject, **more)
        ),
    ),
)

dead_means_yes = Mutant(
    "lifecycle.dead-means-yes",
    "lifecycle.a-dead-process-is-named",
    "lifecycle",
    "The survivors go on without a rank that died.",
    absent_means_yes.mutate,
)

agrees_on_nothing = Mutant(
    "lifecycle.agrees-on-nothing",
    "lifecycle.disagreement-is-refused",
    "lifecycle",
    "Ranks vote without saying on what: one sleeps at level 1, another at level 2.",
    lambda backend: _lifecycle.voter(
        backend,
        lambda voter, ok, subject, **more: voter.vote(ok, subject.rpartition(": ")[2], **{**more, "digest": ""}),
    ),
)

failed_sleeps_count = Mutant(
    "lifecycle.failed-sleeps-count",
    "lifecycle.epochs-count-sleeps",
    "lifecycle",
    "The epoch counts a sleep when it begins, not when it has taken memory.",
    lambda backend: _lifecycle.table(
        backend,
        lambda before, event, step: (
            replace(
                step[0],
                epoch=step[0].epoch
                + (step[0].stage is Stage.PREPARE and before.stage is Stage.REST)
                - (before.stage is Stage.COMMIT and step[0].stage is Stage.REST and step[0].phase is not Phase.FAILED),
            ),
            step[1],
        ),
    ),
)

processes_go_ahead = Mutant(
    "lifecycle.processes-go-ahead",
    "lifecycle.processes-sleep-together",
    "lifecycle",
    "Each process unmaps, and admits requests, as soon as it is ready itself.",
    _no_vote([Stage.PREPARE, Stage.REMAP, Stage.ADMIT]),
)

# -- legal ---------------------------------------------------------------------------------------------------------

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
