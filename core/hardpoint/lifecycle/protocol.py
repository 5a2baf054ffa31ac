"""`MemoryMap`: the backend's part in sleep and wake. Memory under tags, given back and fetched again.

It knows one process and no protocol: when to call what, and what the other ranks do, is `Lifecycle`'s business. CUDA
virtual memory, Level Zero, the host's pages and the simulator all fit behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Holding:
    """One allocation under a tag.

    Attributes:
        tag: what it belongs to, for example ``"weights"``.
        nbytes: its size.
        device: torch device string.
        mapped: there is memory behind it.
        saved: a copy of its contents is kept.
        what: for people, unique within the tag: a parameter's name, or a number and a size.
    """

    tag: str
    nbytes: int
    device: str
    mapped: bool
    saved: bool
    what: str


@runtime_checkable
class MemoryMap(Protocol):
    """Memory under tags. Every method takes a lock of its own; `tags` always names at least one known tag.

    Whoever calls `save` or `unmap` has synchronised the device before, and whoever calls `map` or `restore` does so
    after: an implementation may copy asynchronously on a stream of its own, but has waited for it when it returns.
    Each call is idempotent per tag, and after one that raised it can be called again. LifecycleError for unknown tags.
    """

    def pool(self, tag: str, device_index: int = 0) -> AbstractContextManager[None]:
        """Put what the calling thread allocates on the device inside the block under `tag`."""
        ...

    def adopt(self, tag: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put existing tensors under `tag`. LifecycleError naming the tensor where only pooled memory can sleep."""
        ...

    def tags(self) -> tuple[str, ...]:
        """Known tags, in the order in which they appeared."""
        ...

    def mapped(self, tag: str) -> bool:
        """There is memory behind every allocation of the tag."""
        ...

    def save(self, tags: Sequence[str]) -> None:
        """Keep a copy of the contents outside the device. LifecycleError for a tag that is not mapped."""
        ...

    def unmap(self, tags: Sequence[str]) -> None:
        """Give the memory back. Contents are lost unless saved; tensors stay, and reading them is an error."""
        ...

    def map(self, tags: Sequence[str]) -> None:
        """Put memory behind the tags again, at the same addresses; contents are undefined."""
        ...

    def restore(self, tags: Sequence[str]) -> None:
        """Copy the saved contents back. LifecycleError for a tag that is not mapped, or was not saved."""
        ...

    def discard(self, tags: Sequence[str]) -> None:
        """Drop the saved copies."""
        ...

    def digest(self, tags: Sequence[str]) -> dict[str, str]:
        """Digest of what is in device memory now, per allocation (key: ``tag/what``). LifecycleError if not mapped."""
        ...

    def holders(self) -> list[Holding]:
        """Every allocation, largest first."""
        ...
