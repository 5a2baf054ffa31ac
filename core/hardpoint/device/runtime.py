"""`RuntimeDevice`: the `Device` of a vendor whose calls are gathered in one narrow object, its `DeviceRuntime`.

A vendor's module is then reached in one file, by plain names that can be checked against the vendor's releases without
a device, and the same backend code runs on the simulator, which brings a runtime of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from hardpoint.device.changes import VisibilityWatch
from hardpoint.device.identity import physical_name, uuid_in
from hardpoint.device.protocol import DeviceIdentity, Event, MemoryInfo, Stream
from hardpoint.errors import DeviceError

if TYPE_CHECKING:
    import torch


class DeviceRuntime(Protocol):
    """What a device needs of a vendor's module. Indexes are valid when they arrive here."""

    @property
    def device_type(self) -> str:
        """Torch device type."""
        ...

    def device_count(self) -> int:
        """Visible devices. Creates no context."""
        ...

    def current_device(self) -> int: ...
    def set_device(self, index: int) -> None: ...
    def synchronize(self, index: int) -> None: ...

    def new_stream(self, index: int) -> Stream:
        """A new stream of the vendor's own type."""
        ...

    def current_stream(self, index: int) -> Stream:
        """The calling thread's current stream of the device, equal to the one that `set_stream` was given."""
        ...

    def set_stream(self, stream: Any) -> None:
        """Make `stream` the calling thread's current one on its device; that device is current already."""
        ...

    def new_event(self, index: int, timing: bool) -> Event: ...
    def memory(self, index: int) -> MemoryInfo: ...
    def empty_cache(self) -> None: ...

    def uuid(self, index: int) -> str | None:
        """The driver's hardware id; None if it gives none."""
        ...


class RuntimeDevice:
    """Devices of one `DeviceRuntime`. Making one touches no device.

    Args:
        runtime: the vendor's calls.
        visibility_variable: what maps logical to physical indexes, for example ``ZE_AFFINITY_MASK``.
        install: what to do where no device is visible, as a sentence.
    """

    def __init__(self, runtime: DeviceRuntime, visibility_variable: str, install: str) -> None:
        self._runtime = runtime
        self._variable = visibility_variable
        self._watch = VisibilityWatch(visibility_variable)
        self._install = install

    @property
    def type(self) -> str:
        """Torch device type."""
        return self._runtime.device_type

    def count(self) -> int:
        """Visible devices."""
        return self._runtime.device_count()

    def torch_device(self, index: int | None = None, /) -> torch.device:
        """The torch device to allocate on. DeviceError if there is no such device."""
        import torch

        return torch.device(self.type, self._index(index))

    def current(self) -> int:
        """Index of the calling thread's current device. DeviceError without a device."""
        self._index(0)
        return self._runtime.current_device()

    @contextmanager
    def use(self, index: int, /) -> Iterator[None]:
        """Make `index` current for this thread; the one before is current again on exit, also by an exception."""
        index = self._index(index)
        before = self._runtime.current_device()
        self._runtime.set_device(index)
        try:
            yield
        finally:
            self._runtime.set_device(before)

    def synchronize(self, index: int | None = None, /) -> None:
        """Wait for all streams of the device."""
        self._runtime.synchronize(self._index(index))

    def stream(self, index: int | None = None, /) -> Stream:
        """A new stream."""
        return self._runtime.new_stream(self._index(index))

    def current_stream(self, index: int | None = None, /) -> Stream:
        """The calling thread's current stream on the device."""
        return self._runtime.current_stream(self._index(index))

    @contextmanager
    def use_stream(self, stream: Any, /) -> Iterator[None]:
        """Make `stream` and its device current; both are as before on exit, also the other device's stream."""
        place = getattr(stream, "device", None)
        if place is None or place.type != self.type:
            raise DeviceError(f"use_stream: expected a stream of {self.type}, found {stream!r} on {place}.")
        with self.use(place.index):
            before = self._runtime.current_stream(place.index)
            self._runtime.set_stream(stream)
            try:
                yield
            finally:
                self._runtime.set_stream(before)

    def event(self, index: int | None = None, /, *, timing: bool = False) -> Event:
        """A new event, not yet recorded."""
        return self._runtime.new_event(self._index(index), timing)

    def memory(self, index: int | None = None, /) -> MemoryInfo:
        """Memory in bytes: the driver's free and total, this process's allocated and reserved."""
        return self._runtime.memory(self._index(index))

    def empty_cache(self) -> None:
        """Give cached memory back to the driver."""
        self._runtime.empty_cache()

    def identity(self, index: int | None = None, /) -> DeviceIdentity:
        """The device's names. The UUID is the driver's.

        DeviceError if the visibility variable cannot be read, or has changed since the driver was first asked.
        """
        index = self._index(index)
        uuid = self._runtime.uuid(index)
        self._watch.look()
        value = os.environ.get(self._variable)
        physical = physical_name(self._variable, value, index)
        return DeviceIdentity(index, physical, uuid or uuid_in(physical), self._variable, value)

    def _index(self, index: int | None) -> int:
        count = self.count()
        shown = f"{self._variable}={os.environ.get(self._variable)!r}"
        if count == 0:
            raise DeviceError(f"No {self.type} device is visible ({shown}). {self._install}")
        if index is None:
            return self._runtime.current_device()
        if not 0 <= index < count:
            raise DeviceError(f"{self.type}:{index} does not exist; {count} device(s) are visible ({shown}).")
        return index
