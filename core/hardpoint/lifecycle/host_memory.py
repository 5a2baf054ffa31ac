"""`HostMemoryMap`: the memory part of the host, and the plain definition of what every `MemoryMap` does."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hardpoint.errors import LifecycleError
from hardpoint.lifecycle.host_digest import storage_digest
from hardpoint.lifecycle.pages import bytes_of, clear, release, resident
from hardpoint.lifecycle.protocol import Holding
from hardpoint.lifecycle.saved_copy import SavedCopy

if TYPE_CHECKING:
    import torch

# Bytes that may be in memory after a tag was given back: none are expected, a page may be touched by a stray prefetch.
RESIDUAL = 1 << 20


@dataclass
class _Block:
    """One storage, known by a weak reference: sleeping must not keep a dropped model alive."""

    what: str
    nbytes: int
    find: Callable[[], torch.UntypedStorage | None]
    mapped: bool = True
    copy: SavedCopy | None = None


class HostMemoryMap:
    """Tensors of the host by tag. Unmapping gives whole pages back to the system and keeps every address.

    What is not caught: a read of unmapped memory is not refused, since a plain host tensor cannot refuse one (taking
    its storage away makes torch crash the process). Its first page and its ends read as NaN, the rest as zero. Nobody
    reads it as long as `Lifecycle` decides who serves.

    Args:
        directory: where saved contents are kept; the system's temporary directory if None. A directory in memory
            (tmpfs) frees nothing.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._blocks: dict[str, list[_Block]] = {}
        self._numbers = itertools.count()
        self._pools = threading.local()
        self._lock = threading.RLock()

    @contextmanager
    def pool(self, tag: str, device_index: int = 0) -> Iterator[None]:
        """See `MemoryMap.pool`; `device_index` is 0. Only what torch's dispatcher allocates is noticed.

        Of nested pools the innermost takes what is allocated: torch shows it to the outer ones as well.
        """
        from hardpoint.lifecycle.pool_mode import PoolMode

        with self._lock:
            self._blocks.setdefault(tag, [])
        outer: tuple[str, ...] = getattr(self._pools, "tags", ())
        self._pools.tags = (*outer, tag)
        try:
            with PoolMode(lambda tensor: self._add(self._pools.tags[-1], None, tensor)):
                yield
        finally:
            self._pools.tags = outer

    def adopt(self, tag: str, tensors: Mapping[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if tensor.device.type != "cpu":
                raise LifecycleError(
                    f"{name} is on {tensor.device}, and HostMemoryMap gives back host memory only; the backend has to "
                    "bring a MemoryMap of its own for that device"
                )
            if tensor.is_shared():  # type: ignore[no-untyped-call]
                raise LifecycleError(f"{name} lies in memory shared with other processes, which cannot be given back")
        with self._lock:
            self._blocks.setdefault(tag, [])
            for name, tensor in tensors.items():
                self._add(tag, name, tensor)

    def tags(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._blocks)

    def mapped(self, tag: str) -> bool:
        return all(block.mapped for _, block, _ in self._of([tag]))

    def save(self, tags: Sequence[str]) -> None:
        for tag, block, storage in self._of(tags):
            self._refuse_unmapped(tag, block, "save")
            if block.copy is None or block.copy.nbytes != storage.nbytes():
                block.copy = SavedCopy(bytes_of(storage), self._directory, f"{tag}/{block.what}")
            else:
                block.copy.write(bytes_of(storage), f"{tag}/{block.what}")

    def unmap(self, tags: Sequence[str]) -> None:
        kept: list[tuple[int, str]] = []
        for tag, block, storage in self._of(tags):
            if block.mapped:
                block.mapped = False  # from here on the contents may be gone, also if the system call fails
                release(storage, f"{tag}/{block.what}")
                kept.append((resident(storage), f"{tag}/{block.what}"))
        left = sum(nbytes for nbytes, _ in kept)
        if left > RESIDUAL:
            holders = ", ".join(f"{what} ({nbytes} bytes)" for nbytes, what in sorted(kept, reverse=True)[:5])
            raise LifecycleError(
                f"{left} bytes are still in memory after they were given back, more than the {RESIDUAL} that may be; "
                f"largest holders: {holders}. Something reads or writes what sleeps, or has locked it in memory."
            )

    def clear(self, tags: Sequence[str]) -> None:
        """Zeros where unmapping left NaN, for contents that nobody needs and a kernel may read beyond its mask."""
        for tag, block, storage in self._of(tags):
            self._refuse_unmapped(tag, block, "clear")
            clear(storage)

    def map(self, tags: Sequence[str]) -> None:
        for _, block, _ in self._of(tags):
            block.mapped = True  # the system brings a page when it is first touched

    def restore(self, tags: Sequence[str]) -> None:
        for tag, block, storage in self._of(tags):
            self._refuse_unmapped(tag, block, "restore")
            if block.copy is None:
                raise LifecycleError(f"{tag}/{block.what} was not saved, so it cannot be restored; write it anew")
            block.copy.read_into(bytes_of(storage), f"{tag}/{block.what}")

    def discard(self, tags: Sequence[str]) -> None:
        for _, block, _ in self._of(tags):
            block.copy = None

    def digest(self, tags: Sequence[str]) -> dict[str, str]:
        found = {}
        for tag, block, storage in self._of(tags):
            self._refuse_unmapped(tag, block, "digest")
            found[f"{tag}/{block.what}"] = storage_digest(storage)
        return found

    def holders(self) -> list[Holding]:
        blocks = self._of(self.tags())
        found = [Holding(tag, b.nbytes, "cpu", b.mapped, b.copy is not None, b.what) for tag, b, _ in blocks]
        return sorted(found, key=lambda holding: -holding.nbytes)

    # -- inside --------------------------------------------------------------------------------------------------

    def _add(self, tag: str, name: str | None, tensor: torch.Tensor) -> None:
        import torch
        from torch.multiprocessing.reductions import StorageWeakRef

        if tensor.device.type != "cpu" or tensor.is_sparse or tensor.untyped_storage().nbytes() == 0:
            return
        storage = tensor.untyped_storage()
        with self._lock:
            for other, block, held in self._of(self._blocks):
                if held._cdata == storage._cdata:
                    if other != tag:
                        raise LifecycleError(
                            f"{name or 'a tensor'} shares its memory with {other}/{block.what}; one piece of memory "
                            f"belongs to one tag, not to {other} and {tag}"
                        )
                    return
            weak = StorageWeakRef(storage)  # type: ignore[no-untyped-call]

            def find() -> torch.UntypedStorage | None:
                return torch.UntypedStorage._new_with_weak_ptr(weak.cdata)  # None once the storage is gone

            what = f"{name or 'allocation'} #{next(self._numbers)}"
            self._blocks[tag].append(_Block(what, storage.nbytes(), find))

    def _of(self, tags: Sequence[str] | Mapping[str, object]) -> list[tuple[str, _Block, torch.UntypedStorage]]:
        """Living blocks of the tags; forgets the others."""
        with self._lock:
            unknown = [tag for tag in tags if tag not in self._blocks]
            if unknown:
                known = ", ".join(self._blocks) or "none"
                raise LifecycleError(f"there is no memory under the tag {', '.join(unknown)}; known tags: {known}")
            found = []
            for tag in tags:
                living = [(block, storage) for block in self._blocks[tag] if (storage := block.find()) is not None]
                self._blocks[tag] = [block for block, _ in living]
                found += [(tag, block, storage) for block, storage in living]
            return found

    @staticmethod
    def _refuse_unmapped(tag: str, block: _Block, step: str) -> None:
        if not block.mapped:
            raise LifecycleError(f"{step}: there is no memory behind {tag}/{block.what}; map it first")
