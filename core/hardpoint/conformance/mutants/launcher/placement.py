"""Launches on the wrong device."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from hardpoint.backend import Backend
from hardpoint.conformance.mutants._launch import (
    Arguments,
    Plain,
    left_current,
)
from hardpoint.conformance.mutants._proxy import Changed
from hardpoint.conformance.mutants.launcher._plant import plant
from hardpoint.launcher.arguments import tensors_of
from hardpoint.launcher.protocol import BoundKernel


def _on_current_device(backend: Backend) -> Plain:
    launcher = Plain(backend)
    launcher._device = Changed(backend.device, use=lambda index: contextlib.nullcontext())
    return launcher


on_current_device = plant(
    "on-current-device",
    "device-from-tensors",
    "A launch runs on the thread's current device, wherever its tensors are: the first field report.",
    _on_current_device,
)


def _always_on_first_device(backend: Backend) -> Plain:
    launcher = Plain(backend)
    launcher._device = Changed(backend.device, use=lambda index: backend.device.use(0))
    return launcher


always_on_first_device = plant(
    "always-on-first-device", "device-from-tensors", "Every launch runs on device 0.", _always_on_first_device
)


class _LooksAtPositions(Plain):
    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        call = self._check(kernel, args, kwargs)
        place = call.device if any(isinstance(value, torch.Tensor) for value in args) else self.backend.device.current()
        with self._device.use(place):
            self._load(replace(call, device=place))
            self.run(call, args, kwargs)


looks_at_positions = plant(
    "looks-at-positional-tensors-only",
    "device-from-tensors",
    "The device is taken from tensors given by position; for tensors given by name it is the thread's.",
    _LooksAtPositions,
)


class _LooksAtTopLevel(Plain):
    def place(self, name: str, arguments: Arguments) -> int:
        index = super().place(name, arguments)
        direct = any(isinstance(value, torch.Tensor) for value in arguments.values())
        return index if direct else self.backend.device.current()


looks_at_top_level = plant(
    "looks-past-lists",
    "device-from-tensors",
    "Where all tensors are in lists, the launch runs on the thread's current device.",
    _LooksAtTopLevel,
)


def _in_main_thread_only(backend: Backend) -> Plain:
    def use(index: int) -> Any:
        helper = threading.current_thread().name.endswith("helper")
        return contextlib.nullcontext() if helper else backend.device.use(index)

    launcher = Plain(backend)
    launcher._device = Changed(backend.device, use=use)
    return launcher


in_main_thread_only = plant(
    "sets-device-in-one-thread-only",
    "device-from-tensors",
    "The device of the tensors is made current in the main thread; a worker thread launches on its own current device.",
    _in_main_thread_only,
)


class _BoundOnCurrentDevice(Plain):
    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> BoundKernel:
        bound = super().bind(kernel, *args, **kwargs)
        call = self._check(kernel, args, kwargs)

        def direct(*args: Any, **kwargs: Any) -> None:
            if self._check(kernel, args, kwargs) == call:
                self.run(call, args, kwargs)
            else:
                bound(*args, **kwargs)

        return direct


bound_on_current_device = plant(
    "bound-call-on-current-device",
    "device-from-tensors",
    "Launches find the device of their tensors; bound calls, the quick way, run on the thread's current one.",
    _BoundOnCurrentDevice,
)


class _LeavesDevice(Plain):
    """Leaves the device of a launch current, always or where it failed."""

    def __init__(self, backend: Backend, when: Callable[[bool], bool]) -> None:
        super().__init__(backend)
        kept: list[Any] = []
        self._device = Changed(backend.device, use=lambda index: left_current(backend, index, kept, when))


leaves_device = plant(
    "leaves-device",
    "current-device-is-restored",
    "A launch sets the current device and leaves it set.",
    lambda backend: _LeavesDevice(backend, lambda failed: True),
)

leaves_device_after_error = plant(
    "leaves-device-after-error",
    "current-device-is-restored",
    "The current device is restored when a launch goes well, and left when it raises.",
    lambda backend: _LeavesDevice(backend, lambda failed: failed),
)


class _LeavesDeviceAfterRefusal(Plain):
    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self._kept: list[Any] = []

    def place(self, name: str, arguments: Arguments) -> int:
        first = next((tensor.device.index or 0 for _, tensor in tensors_of(arguments)), 0)
        with left_current(self.backend, first, self._kept, lambda failed: failed):
            return super().place(name, arguments)


leaves_device_after_refusal = plant(
    "leaves-device-after-refusal",
    "current-device-is-restored",
    "The first tensor's device is made current before the checks, and a refusal leaves it so.",
    _LeavesDeviceAfterRefusal,
)


class _PreloadLeavesLast(Plain):
    def preload(self, kernel: Any, *args: Any, devices: Sequence[int] | None = None, **kwargs: Any) -> None:
        super().preload(kernel, *args, devices=devices, **kwargs)
        for index in devices or ():
            with left_current(self.backend, index, self.__dict__.setdefault("kept", []), lambda failed: True):
                pass


preload_leaves_last = plant(
    "preload-leaves-last-device",
    "current-device-is-restored",
    "Preload walks over the devices and leaves the last one current.",
    _PreloadLeavesLast,
)
