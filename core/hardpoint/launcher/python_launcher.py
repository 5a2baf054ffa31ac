"""`PythonLauncher`: launches Python functions over tensors; the plain definition of what every launcher does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from hardpoint.errors import CaptureRefused, DeviceError, LaunchRefused
from hardpoint.launcher.arguments import device_of, kernel_name, named_arguments, refuse_wrong_dtypes
from hardpoint.launcher.protocol import BoundKernel, LaunchPlan
from hardpoint.launcher.python_kernel import facts_of
from hardpoint.launcher.specialisation import Specialisation, specialise


class LaunchDevice(Protocol):
    """The part of `hardpoint.device.Device` that a launch needs."""

    @property
    def type(self) -> str: ...
    def count(self) -> int: ...
    def use(self, index: int, /) -> AbstractContextManager[None]: ...


@dataclass(frozen=True)
class _Host:
    type: str = "cpu"

    def count(self) -> int:
        return 1

    def use(self, index: int, /) -> AbstractContextManager[None]:
        return nullcontext()


@dataclass(frozen=True)
class _Call:
    """One call, checked: it may be launched on `device` in the form `specialisation`."""

    kernel: Callable[..., Any]
    device: int
    specialisation: Specialisation


class PythonLauncher:
    """Launch Python functions on the device of their tensor arguments.

    Args:
        device: devices to launch on; the host if None.
        capturing: answers whether the calling thread's current stream is being captured (`Graphs.capturing`); called
            under the device of the launch.
    """

    def __init__(self, device: LaunchDevice | None = None, capturing: Callable[[], bool] = lambda: False) -> None:
        self._device = _Host() if device is None else device
        self._capturing = capturing
        # Per device, since a handle belongs to the device that it was loaded on; kernels are held for good, so that a
        # graph may replay them and an address is never another function's.
        self._loaded: set[_Call] = set()
        self._lock = threading.Lock()

    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        """Check, then run ``kernel(*args, **kwargs)`` under the tensors' device.

        Raises LaunchRefused or CaptureRefused, and then nothing ran. What the kernel itself raises passes through; the
        caller's current device is as before in any case.
        """
        call = self._check(kernel, args, kwargs)
        with self._device.use(call.device):
            self._load(call)
            kernel(*args, **kwargs)

    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> BoundKernel:
        """Load for these arguments and return the launch of that form; other kinds of arguments are refused by it."""
        call = self._check(kernel, args, kwargs)
        with self._device.use(call.device):
            self._load(call)
        return _Bound(self, call)

    def preload(self, kernel: Any, *args: Any, devices: Sequence[int] | None = None, **kwargs: Any) -> None:
        """Load on every device of `devices`; raises DeviceError for one that does not exist, before any is loaded."""
        call = self._check(kernel, args, kwargs)
        indices = (call.device,) if devices is None else tuple(devices)
        for index in indices:
            if not 0 <= index < self._device.count():
                raise DeviceError(
                    f"kernel {kernel_name(kernel)} cannot be preloaded on {self._device.type}:{index}: there are "
                    f"{self._device.count()} devices, {self._device.type}:0 to "
                    f"{self._device.type}:{self._device.count() - 1}"
                )
        for index in indices:
            with self._device.use(index):
                self._load(_Call(kernel, index, call.specialisation))

    def explain(self, kernel: Any, *args: Any, **kwargs: Any) -> LaunchPlan:
        name = kernel_name(kernel)
        try:
            call = self._check(kernel, args, kwargs)
        except LaunchRefused as refusal:
            return LaunchPlan(name, None, "", False, str(refusal))
        with self._device.use(call.device):
            refusal_text = self._cold_in_capture(call)
        loaded = call in self._loaded
        device = f"{self._device.type}:{call.device}"
        return LaunchPlan(name, None if refusal_text else device, str(call.specialisation), loaded, refusal_text)

    def _check(self, kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call:
        arguments = named_arguments(kernel, args, kwargs)
        name, facts = kernel_name(kernel), facts_of(kernel)
        index = device_of(name, arguments, self._device.type)
        refuse_wrong_dtypes(name, arguments, facts)
        return _Call(kernel, index, specialise(arguments, constants=facts.constants))

    def _load(self, call: _Call) -> None:
        if call in self._loaded:
            return
        refusal = self._cold_in_capture(call)
        if refusal is not None:
            raise CaptureRefused(refusal)
        with self._lock:
            self._loaded.add(call)

    def _cold_in_capture(self, call: _Call) -> str | None:
        if call in self._loaded or not self._capturing():
            return None
        name, where = kernel_name(call.kernel), f"{self._device.type}:{call.device}"
        return (
            f"kernel {name} is not loaded on {where} for [{call.specialisation}], and a graph is being captured there; "
            f"leaving it out would record a wrong graph. Before the capture, call launcher.preload({name}, <the same "
            f"arguments>, devices=[{call.device}])"
        )


@dataclass(frozen=True)
class _Bound:
    """A loaded form; its call refuses arguments that need another one."""

    launcher: PythonLauncher
    call: _Call

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        found = self.launcher._check(self.call.kernel, args, kwargs)
        if found != self.call:
            raise LaunchRefused(
                f"kernel {kernel_name(self.call.kernel)} is bound to device {self.call.device} for "
                f"[{self.call.specialisation}], and was called with arguments for device {found.device} "
                f"[{found.specialisation}]; bind it for those as well, nothing was launched"
            )
        self.launcher.launch(self.call.kernel, *args, **kwargs)
