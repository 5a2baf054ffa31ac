"""`TorchDevice`: the devices of any torch accelerator (cuda, xpu, npu ...), over torch's own generic API."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hardpoint.device.changes import VisibilityWatch
from hardpoint.device.identity import physical_name, uuid_in
from hardpoint.device.protocol import DeviceIdentity, Event, MemoryInfo, Stream
from hardpoint.errors import DeviceError

if TYPE_CHECKING:
    import torch


class TorchDevice:
    """Devices of one torch accelerator type. Making one touches neither torch nor a device.

    Args:
        type: torch device type.
        visibility_variable: what maps logical to physical indexes, for example ``CUDA_VISIBLE_DEVICES``.
    """

    def __init__(self, type: str, visibility_variable: str | None = None) -> None:
        self._type = type
        self._variable = visibility_variable
        self._watch = VisibilityWatch(visibility_variable)

    @property
    def type(self) -> str:
        """Torch device type."""
        return self._type

    def count(self) -> int:
        """Visible devices; 0 if this torch has none of the type. Creates no context."""
        import torch

        module = getattr(torch, self._type, None)
        return int(module.device_count()) if module is not None else 0

    def torch_device(self, index: int | None = None, /) -> torch.device:
        """The torch device to allocate on. DeviceError if there is no such device."""
        import torch

        return torch.device(self._type, self._index(index))

    def current(self) -> int:
        """Index of the calling thread's current device. DeviceError without a device."""
        return int(self._module().current_device())

    @contextmanager
    def use(self, index: int, /) -> Iterator[None]:
        """Make `index` current for this thread; the one before is current again on exit, also by an exception."""
        module = self._module()
        index = self._index(index)
        before = module.current_device()
        module.set_device(index)
        try:
            yield
        finally:
            module.set_device(before)

    def synchronize(self, index: int | None = None, /) -> None:
        """Wait for all streams of the device."""
        self._module().synchronize(self._index(index))

    def stream(self, index: int | None = None, /) -> Stream:
        """A new stream of the type that the vendor's module and `torch.Stream` share."""
        import torch

        return torch.Stream(device=self.torch_device(index))

    def current_stream(self, index: int | None = None, /) -> Stream:
        """The calling thread's current stream on the device; a `torch.Stream`, as those that `stream` makes.

        The vendor's module would give its own type, and ``torch.cuda.Stream == torch.Stream`` is False for one stream.
        """
        import torch

        return torch.accelerator.current_stream(self.torch_device(index))

    @contextmanager
    def use_stream(self, stream: Any, /) -> Iterator[None]:
        """Make `stream` and its device current; both are as before on exit, also the other device's stream."""
        import torch

        place = getattr(stream, "device", None)
        if place is None or place.type != self._type:
            raise DeviceError(f"use_stream: expected a stream of {self._type}, found {stream!r} on {place}.")
        with self.use(place.index):
            before = torch.accelerator.current_stream(place)
            torch.accelerator.set_stream(stream)
            try:
                yield
            finally:
                torch.accelerator.set_stream(before)

    def event(self, index: int | None = None, /, *, timing: bool = False) -> Event:
        """A new event, not yet recorded."""
        import torch

        return torch.Event(device=self.torch_device(index), enable_timing=timing)

    def memory(self, index: int | None = None, /) -> MemoryInfo:
        """Memory in bytes: the driver's free and total, this process's allocated and reserved."""
        module, index = self._module(), self._index(index)
        free, total = module.mem_get_info(index)
        return MemoryInfo(int(free), int(total), module.memory_allocated(index), module.memory_reserved(index))

    def empty_cache(self) -> None:
        """Give cached memory back to the driver."""
        self._module().empty_cache()

    def identity(self, index: int | None = None, /) -> DeviceIdentity:
        """The device's names. The UUID is the driver's.

        DeviceError if the visibility variable cannot be read, or has changed since the driver was first asked.
        """
        index = self._index(index)
        uuid = getattr(self._module().get_device_properties(index), "uuid", None)
        self._watch.look()
        value = os.environ.get(self._variable) if self._variable is not None else None
        physical = physical_name(self._variable, value, index)
        return DeviceIdentity(index, physical, str(uuid) if uuid else uuid_in(physical), self._variable, value)

    def _module(self) -> Any:
        import torch

        if self.count() == 0:
            raise DeviceError(
                f"No {self._type} device is visible (torch {torch.__version__}"
                + (f", {self._variable}={os.environ.get(self._variable)!r})" if self._variable else ")")
                + f". Install the torch build for {self._type} and its driver, or choose another backend."
            )
        return torch.get_device_module(self._type)

    def _index(self, index: int | None) -> int:
        if index is None:
            return self.current()
        count = self.count()
        if not 0 <= index < count:
            raise DeviceError(
                f"{self._type}:{index} does not exist; {count} device(s) are visible"
                + (f" ({self._variable}={os.environ.get(self._variable)!r})." if self._variable else ".")
            )
        return index
