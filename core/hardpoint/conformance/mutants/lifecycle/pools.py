"""Faults of digests, holders and pools."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any

from hardpoint.backend import Backend
from hardpoint.conformance.mutant import Mutant
from hardpoint.conformance.mutants import _lifecycle
from hardpoint.errors import LifecycleError

# -- digests -------------------------------------------------------------------------------------------------------


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


# -- holders and pools ---------------------------------------------------------------------------------------------


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
