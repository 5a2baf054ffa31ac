"""`Device`, `Stream` and `Event`: what code may ask of an accelerator.

`Stream` and `Event` are torch's own methods, positional-only and loosely typed, so that ``torch.Stream``,
``torch.Event``, ``torch.cuda.*`` and ``torch.xpu.*`` conform as they are and a backend on torch writes neither.

Laws (``hardpoint.conformance``): the current device is per thread and restored when `use` exits, also by an exception;
work is ordered within a stream; an event waits for its last record; `synchronize` waits for every stream of the device.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch


@runtime_checkable
class Event(Protocol):
    """A mark in a stream. An event that was never recorded counts as done."""

    def query(self) -> bool: ...
    def synchronize(self) -> None: ...
    def record(self, stream: Any = None, /) -> None: ...
    def wait(self, stream: Any = None, /) -> None: ...
    def elapsed_time(self, end: Any, /) -> float: ...


@runtime_checkable
class Stream(Protocol):
    """A queue of work on one device, run in order."""

    def query(self) -> bool: ...
    def synchronize(self) -> None: ...
    def wait_event(self, event: Any, /) -> None: ...
    def wait_stream(self, stream: Any, /) -> None: ...
    def record_event(self, event: Any = None, /) -> Any: ...


@dataclass(frozen=True)
class MemoryInfo:
    """Bytes of one device: `free` and `total` as the driver says, `allocated` and `reserved` of this process."""

    free: int
    total: int
    allocated: int
    reserved: int


@dataclass(frozen=True)
class DeviceIdentity:
    """One device under its three names.

    Attributes:
        logical: index that torch uses in this process.
        physical: index (or name) on the machine, None if it cannot be known.
        uuid: hardware id that stays the same in every process, None if the vendor gives none.
        visibility_variable: the variable that maps one to the other, for example ``CUDA_VISIBLE_DEVICES``.
        visibility_value: its value in this process, None if unset.
    """

    logical: int
    physical: str | None
    uuid: str | None
    visibility_variable: str | None
    visibility_value: str | None


@runtime_checkable
class Device(Protocol):
    """The devices of one backend. Every method that takes an `index` takes None for the current device."""

    @property
    def type(self) -> str:
        """Torch device type."""
        ...

    def count(self) -> int:
        """Visible devices."""
        ...

    def torch_device(self, index: int | None = None, /) -> torch.device:
        """The torch device to allocate on."""
        ...

    def current(self) -> int:
        """Index of the calling thread's current device."""
        ...

    def use(self, index: int, /) -> AbstractContextManager[None]:
        """Make `index` current for this thread in a ``with`` block. DeviceError if there is no such device."""
        ...

    def synchronize(self, index: int | None = None, /) -> None:
        """Wait for all streams of the device."""
        ...

    def stream(self, index: int | None = None, /) -> Stream:
        """A new stream."""
        ...

    def current_stream(self, index: int | None = None, /) -> Stream:
        """The calling thread's current stream on the device."""
        ...

    def use_stream(self, stream: Any, /) -> AbstractContextManager[None]:
        """Make `stream` (and its device) current for this thread inside a ``with`` block."""
        ...

    def event(self, index: int | None = None, /, *, timing: bool = False) -> Event:
        """A new event."""
        ...

    def memory(self, index: int | None = None, /) -> MemoryInfo:
        """Memory of the device, in bytes."""
        ...

    def empty_cache(self) -> None:
        """Give cached memory back to the driver."""
        ...

    def identity(self, index: int | None = None, /) -> DeviceIdentity:
        """The device's names."""
        ...
