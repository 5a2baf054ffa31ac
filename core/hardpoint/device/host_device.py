"""`HostDevice`: the CPU as a `Device`. One device; every stream is in order with the host, because work is.

`torch.accelerator` raises on CPU builds, and ``torch.Stream(device="cpu")`` has no events (torch 2.13), hence this.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardpoint.device.protocol import DeviceIdentity, Event, MemoryInfo, Stream
from hardpoint.errors import DeviceError

if TYPE_CHECKING:
    import torch


class HostEvent:
    """A mark in the host's own order: work before `record` is done when it returns, so the event is done too."""

    def __init__(self, timing: bool = False) -> None:
        self._timing = timing
        self._at: float | None = None

    def query(self) -> bool:
        """Always True: nothing on the host runs late."""
        return True

    def synchronize(self) -> None:
        """Return at once: nothing runs late."""

    def record(self, stream: Any = None, /) -> None:
        """Note the time."""
        self._at = time.perf_counter()

    def wait(self, stream: Any = None, /) -> None:
        """Return at once: what was recorded is done."""

    def elapsed_time(self, end: Any, /) -> float:
        """Milliseconds from this record to the one of `end`. DeviceError without timing or record."""
        if not isinstance(end, HostEvent) or not (self._timing and end._timing):
            raise DeviceError("elapsed_time: both events must be host events made with timing=True.")
        if self._at is None or end._at is None:
            raise DeviceError("elapsed_time: both events must have been recorded.")
        return (end._at - self._at) * 1e3


class HostStream:
    """A stream that is in order with the host: work is done when the call that made it returns."""

    @property
    def device(self) -> torch.device:
        """The CPU."""
        import torch

        return torch.device("cpu")

    def query(self) -> bool:
        """Always True."""
        return True

    def synchronize(self) -> None:
        """Return at once."""

    def wait_event(self, event: Any, /) -> None:
        """Return at once: the event's work is done."""

    def wait_stream(self, stream: Any, /) -> None:
        """Return at once for a host stream; wait on the host for another device's stream."""
        if not isinstance(stream, HostStream):
            stream.synchronize()

    def record_event(self, event: Any = None, /) -> Any:
        """Record `event`, or a new one, and return it."""
        event = HostEvent() if event is None else event
        event.record(self)
        return event


class HostDevice:
    """The CPU, device 0 of 1."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._default = HostStream()

    @property
    def type(self) -> str:
        """``"cpu"``."""
        return "cpu"

    def count(self) -> int:
        """1: cores and NUMA nodes are not devices."""
        return 1

    def torch_device(self, index: int | None = None, /) -> torch.device:
        """``torch.device("cpu")``."""
        import torch

        self._check(index)
        return torch.device("cpu")

    def current(self) -> int:
        """0."""
        return 0

    @contextmanager
    def use(self, index: int, /) -> Iterator[None]:
        """Check the index; there is nothing to switch."""
        self._check(index)
        yield

    def synchronize(self, index: int | None = None, /) -> None:
        """Return at once: nothing runs late."""
        self._check(index)

    def stream(self, index: int | None = None, /) -> Stream:
        """A new stream, in order with the host and hence with all others."""
        self._check(index)
        return HostStream()

    def current_stream(self, index: int | None = None, /) -> Stream:
        """This thread's current stream."""
        self._check(index)
        stream: HostStream = getattr(self._local, "stream", self._default)
        return stream

    @contextmanager
    def use_stream(self, stream: Any, /) -> Iterator[None]:
        """Make `stream` current for this thread; the one before is current again on exit."""
        if not isinstance(stream, HostStream):
            raise DeviceError(f"use_stream: expected a stream of the cpu, found {stream!r}.")
        before = self.current_stream()
        self._local.stream = stream
        try:
            yield
        finally:
            self._local.stream = before

    def event(self, index: int | None = None, /, *, timing: bool = False) -> Event:
        """A new event."""
        self._check(index)
        return HostEvent(timing)

    def memory(self, index: int | None = None, /) -> MemoryInfo:
        """Bytes: what the kernel says is available and installed (not a container's limit); this process's RSS.

        `reserved` is the RSS too: torch's CPU allocator keeps no cache that could be told apart.
        """
        self._check(index)
        try:
            lines = Path("/proc/meminfo").read_text().splitlines()
            table = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
            pages = int(Path("/proc/self/statm").read_text().split()[1])
        except OSError as error:
            raise DeviceError(f"memory: /proc cannot be read ({error}); host memory is known on Linux only.") from error
        resident = pages * os.sysconf("SC_PAGE_SIZE")
        return MemoryInfo(table["MemAvailable"], table["MemTotal"], resident, resident)

    def empty_cache(self) -> None:
        """Nothing is cached."""

    def identity(self, index: int | None = None, /) -> DeviceIdentity:
        """The CPU has an index alone: no UUID, and no variable hides it."""
        self._check(index)
        return DeviceIdentity(0, "0", None, None, None)

    def _check(self, index: int | None) -> None:
        if index not in (None, 0):
            raise DeviceError(f"cpu:{index} does not exist; the host is one device, index 0.")
