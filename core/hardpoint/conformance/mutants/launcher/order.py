"""Launches in the wrong stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hardpoint.backend import Backend
from hardpoint.conformance.mutants._launch import (
    Arguments,
    Plain,
    default_stream,
)
from hardpoint.conformance.mutants.launcher._plant import plant
from hardpoint.launcher.protocol import BoundKernel
from hardpoint.launcher.python_launcher import _Call


class _OnStream(Plain):
    """Runs kernels on the stream that `choose` gives for the device of the launch."""

    def __init__(self, backend: Backend, choose: Callable[[int], Any]) -> None:
        super().__init__(backend)
        self._choose = choose

    def run(self, call: _Call, args: tuple[Any, ...], kwargs: Arguments) -> None:
        with self.backend.device.use_stream(self._choose(call.device)):
            super().run(call, args, kwargs)


on_default_stream = plant(
    "on-default-stream",
    "launch-is-in-stream-order",
    "Kernels go to the default stream of the device instead of the caller's current one.",
    lambda backend: _OnStream(backend, lambda index: default_stream(backend, index)),
)

on_own_stream = plant(
    "on-own-stream",
    "launch-is-in-stream-order",
    "Kernels go to a stream of the launcher's own, which waits for nobody.",
    lambda backend: _OnStream(backend, backend.device.stream),
)


class _OrderedOnCurrentDeviceOnly(Plain):
    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        call, current = self._check(kernel, args, kwargs), self.backend.device.current()
        if call.device == current:
            super().launch(kernel, *args, **kwargs)
            return
        with self.backend.device.use_stream(default_stream(self.backend, call.device)):
            super().launch(kernel, *args, **kwargs)


switching_resets_stream = plant(
    "switching-device-resets-stream",
    "launch-is-in-stream-order",
    "Where the launch has to change the device, it uses that device's default stream and not the thread's current one.",
    _OrderedOnCurrentDeviceOnly,
)


class _BoundKeepsStream(Plain):
    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> BoundKernel:
        bound = super().bind(kernel, *args, **kwargs)
        stream = self.backend.device.current_stream(self._check(kernel, args, kwargs).device)

        def on_stream(*args: Any, **kwargs: Any) -> None:
            with self.backend.device.use_stream(stream):
                bound(*args, **kwargs)

        return on_stream


bound_keeps_stream = plant(
    "bound-call-keeps-stream",
    "launch-is-in-stream-order",
    "A bound call runs on the stream that was current when it was bound.",
    _BoundKeepsStream,
)
