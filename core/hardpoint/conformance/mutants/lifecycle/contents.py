"""Faults in what comes back, and under which tag."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from hardpoint.backend import Backend
from hardpoint.conformance.mutant import Mutant
from hardpoint.conformance.mutants import _lifecycle
from hardpoint.conformance.mutants.lifecycle._parts import blind_digest

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


def _copies_lack_the_end(backend: Backend) -> Backend:
    watched = _lifecycle.Watched(backend)

    def restore(tags: Sequence[str]) -> None:
        backend.memory_map.restore(tags)
        for tensor in watched.tensors(tags):
            tensor.reshape(-1)[-1:].fill_(77)

    return _lifecycle.memory(backend, pool=watched.pool, restore=restore, digest=blind_digest)


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

    return _lifecycle.memory(backend, pool=watched.pool, save=save, restore=restore, digest=blind_digest)


copies_under_wrong_tag = Mutant(
    "lifecycle.copies-under-wrong-tag",
    "lifecycle.tags-are-independent",
    "lifecycle",
    "The saved copy of one tag is restored into memory of another that has the same shape.",
    _copies_under_wrong_tag,
)
