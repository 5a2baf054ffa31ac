"""`VirtualMemoryMap`: the `MemoryMap` of a device whose driver unmaps memory and keeps its address.

A vendor brings five calls, `VirtualMemory`; everything that can be wrong about sleep beyond them is here, once: what is
saved when, what may be read, which tags exist, and what is left after half of it failed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hardpoint.errors import LifecycleError
from hardpoint.lifecycle.mover import HostMover, Mover
from hardpoint.lifecycle.protocol import Holding

if TYPE_CHECKING:
    import torch


# Bytes of a device that may be missing after a sleep: what else runs on it takes and gives memory at the same moment.
RESIDUAL = 64 << 20


@dataclass(frozen=True)
class VirtualBlock:
    """One allocation of a pool that some tensor still stands on; its address is never another one's while it lives."""

    address: int
    nbytes: int
    device_index: int
    tag: str


class VirtualMemory(Protocol):
    """A vendor's calls. Every one has taken effect when it returns."""

    def pool(self, tag: str, device_index: int) -> AbstractContextManager[None]:
        """Allocations of the calling thread on the device, inside the block, become blocks of `tag`."""
        ...

    def blocks(self) -> tuple[VirtualBlock, ...]:
        """Live blocks, mapped or not."""
        ...

    def unmap(self, block: VirtualBlock) -> None:
        """Give the memory behind it back; the address stays reserved."""
        ...

    def map(self, block: VirtualBlock) -> None:
        """Put memory behind it again; contents are undefined. RuntimeError if there is not enough."""
        ...

    def read(self, block: VirtualBlock) -> torch.Tensor:
        """Host copy, uint8 ``[nbytes]``. The device has been synchronised before."""
        ...

    def write(self, block: VirtualBlock, contents: torch.Tensor) -> None:
        """Copy host bytes, uint8 ``[nbytes]``, into it."""
        ...


class VirtualMemoryMap:
    """See `MemoryMap`. Only what was allocated in a pool can sleep.

    Args:
        memory: the vendor's calls.
        device_type: torch device type, for `holders`.
        mover: how contents are copied and digested; by `memory`'s own copies if None.
        free: free bytes of the device of an index; what sleep gives back is measured with it, if it is given.
        residual: bytes that may be missing in that measure.
    """

    def __init__(
        self,
        memory: VirtualMemory,
        device_type: str,
        mover: Mover | None = None,
        free: Callable[[int], int] | None = None,
        residual: int = RESIDUAL,
    ) -> None:
        self._memory = memory
        self._mover = mover or HostMover(memory)
        self._free, self._residual = free, residual
        self._type = device_type
        self._tags: dict[str, None] = {}
        self._unmapped: set[int] = set()
        self._saved: dict[int, torch.Tensor] = {}
        self._lock = threading.RLock()

    @contextmanager
    def pool(self, tag: str, device_index: int = 0) -> Iterator[None]:
        with self._lock:
            self._tags[tag] = None
        with self._memory.pool(tag, device_index):
            yield

    def adopt(self, tag: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """LifecycleError for a tensor outside every pool, and for one that is under another tag; nothing is adopted."""
        with self._lock:
            for name, tensor in tensors.items():
                block = self._block_of(tensor)
                if block is None:
                    raise LifecycleError(
                        f"tensor '{name}' on {tensor.device} cannot be put under tag '{tag}': only memory that was "
                        "allocated in a pool has an address of its own that can be unmapped; allocate it in the pool"
                    )
                if block.tag != tag:
                    raise LifecycleError(
                        f"tensor '{name}' cannot be put under tag '{tag}': its memory is under '{block.tag}' already"
                    )
            self._tags[tag] = None

    def tags(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._tags)

    def mapped(self, tag: str) -> bool:
        with self._lock:
            return not any(block.address in self._unmapped for block in self._of([tag]))

    def save(self, tags: Sequence[str]) -> None:
        with self._lock:
            self._mover.save(self._mapped(tags, "saved"), self._saved)

    def unmap(self, tags: Sequence[str]) -> None:
        """LifecycleError, with the largest holders, if the device does not have the bytes back."""
        with self._lock:
            blocks = [block for block in self._of(tags) if block.address not in self._unmapped]
            before = self._measure(blocks)
            for block in blocks:
                self._unmapped.add(block.address)  # from here on its contents may be gone, also if the call fails
                self._memory.unmap(block)
            self._require_freed(blocks, before)

    def map(self, tags: Sequence[str]) -> None:
        """If one block cannot be mapped, none of this call is left mapped, and the error passes through."""
        with self._lock:
            done: list[VirtualBlock] = []
            try:
                for block in self._of(tags):
                    if block.address in self._unmapped:
                        self._memory.map(block)
                        done.append(block)
            except RuntimeError:
                for block in done:
                    self._memory.unmap(block)
                raise
            self._unmapped.difference_update(block.address for block in done)

    def restore(self, tags: Sequence[str]) -> None:
        with self._lock:
            blocks = self._mapped(tags, "restored")
            lost = [block for block in blocks if block.address not in self._saved]
            if lost:
                raise LifecycleError(
                    f"tag '{lost[0].tag}' cannot be restored: {len(lost)} of its allocations were not saved, the first "
                    f"is {_what(lost[0])}"
                )
            self._mover.restore(blocks, self._saved)

    def discard(self, tags: Sequence[str]) -> None:
        with self._lock:
            for block in self._of(tags):
                self._saved.pop(block.address, None)

    def digest(self, tags: Sequence[str]) -> dict[str, str]:
        with self._lock:
            blocks = self._mapped(tags, "digested")
            found = self._mover.digest(blocks)
            return {f"{block.tag}/{_what(block)}": digest for block, digest in zip(blocks, found, strict=True)}

    def holders(self) -> list[Holding]:
        with self._lock:
            found = [
                Holding(
                    tag=block.tag,
                    nbytes=block.nbytes,
                    device=f"{self._type}:{block.device_index}",
                    mapped=block.address not in self._unmapped,
                    saved=block.address in self._saved,
                    what=_what(block),
                )
                for block in self._of(tuple(self._tags))
            ]
        return sorted(found, key=lambda holding: -holding.nbytes)

    def _measure(self, blocks: Sequence[VirtualBlock]) -> dict[int, int]:
        if self._free is None:
            return {}
        return {index: self._free(index) for index in {block.device_index for block in blocks}}

    def _require_freed(self, blocks: Sequence[VirtualBlock], before: Mapping[int, int]) -> None:
        for index, now in self._measure(blocks).items():
            given = [block for block in blocks if block.device_index == index]
            wanted, freed = sum(block.nbytes for block in given), now - before[index]
            if wanted - freed > self._residual:
                largest = sorted(given, key=lambda block: -block.nbytes)[:5]
                names = ", ".join(f"{block.tag}/{_what(block)} ({block.nbytes} bytes)" for block in largest)
                raise LifecycleError(
                    f"{wanted} bytes of {self._type}:{index} were unmapped and {freed} came free, {wanted - freed} are "
                    f"missing, more than the {self._residual} that may be; largest holders: {names}. Another mapping "
                    "or a handle that was exported holds them, or another process took them at this moment."
                )

    def _of(self, tags: Sequence[str]) -> list[VirtualBlock]:
        """Live blocks of the tags, by address; forgets what is gone. LifecycleError for an unknown tag."""
        unknown = [tag for tag in tags if tag not in self._tags]
        if unknown:
            known = ", ".join(f"'{tag}'" for tag in self._tags) or "none"
            raise LifecycleError(f"no memory was ever put under tag '{unknown[0]}'; known tags: {known}")
        blocks = self._memory.blocks()
        living = {block.address for block in blocks}
        self._unmapped &= living
        for address in self._saved.keys() - living:
            del self._saved[address]
        return sorted((block for block in blocks if block.tag in tags), key=lambda block: block.address)

    def _mapped(self, tags: Sequence[str], verb: str) -> list[VirtualBlock]:
        blocks = self._of(tags)
        gone = next((block for block in blocks if block.address in self._unmapped), None)
        if gone is not None:
            raise LifecycleError(f"tag '{gone.tag}' cannot be {verb}: {_what(gone)} is not mapped; map it first")
        return blocks

    def _block_of(self, tensor: torch.Tensor) -> VirtualBlock | None:
        start = tensor.untyped_storage().data_ptr()
        for block in self._memory.blocks():
            if tensor.device.type == self._type and block.address <= start < block.address + max(block.nbytes, 1):
                return block
        return None


def _what(block: VirtualBlock) -> str:
    return f"allocation at {block.address:#x}"
