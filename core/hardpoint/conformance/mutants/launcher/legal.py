"""Different and right."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from hardpoint.backend import Backend
from hardpoint.conformance.mutant import LegalVariant
from hardpoint.conformance.mutants._launch import (
    Arguments,
    Plain,
    aside,
    start,
)
from hardpoint.conformance.mutants._proxy import Changed
from hardpoint.launcher.protocol import BoundKernel
from hardpoint.launcher.python_launcher import _Call

plain = LegalVariant(
    "launcher.each-operation-is-queued",
    "launcher",
    "A kernel is not one item of the stream but a row of them, and its errors are raised at once.",
    lambda backend: replace(backend, launcher=Plain(backend)),
    parts=("launcher", "graphs"),
)


class _Waits(Plain):
    def run(self, call: _Call, args: tuple[Any, ...], kwargs: Arguments) -> None:
        super().run(call, args, kwargs)
        if not self._capturing():
            self.backend.device.synchronize(call.device)


waits = LegalVariant(
    "launcher.waits-after-launch",
    "launcher",
    "Every launch outside a capture waits for its device: eager execution is legal.",
    lambda backend: replace(backend, launcher=_Waits(backend)),
)


class _BindsEachLaunch(Plain):
    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        self._through_bind(kernel, args, kwargs)

    def _through_bind(self, kernel: Any, args: tuple[Any, ...], kwargs: Arguments) -> None:
        call = self._check(kernel, args, kwargs)
        self.bind(kernel, *args, **kwargs)
        with self._device.use(call.device):
            self.run(call, args, kwargs)


binds_each_launch = LegalVariant(
    "launcher.binds-each-launch",
    "launcher",
    "Every launch binds anew: slow, and right.",
    lambda backend: replace(backend, launcher=_BindsEachLaunch(backend)),
)


class _BoundTakesAnything(Plain):
    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> BoundKernel:
        super().bind(kernel, *args, **kwargs)
        return lambda *args, **kwargs: self.launch(kernel, *args, **kwargs)


bound_takes_anything = LegalVariant(
    "launcher.bound-call-binds-anew",
    "launcher",
    "A bound call whose arguments are of another kind launches the form that fits instead of refusing.",
    lambda backend: replace(backend, launcher=_BoundTakesAnything(backend)),
)


class _FromAnotherThread(Plain):
    def run(self, call: _Call, args: tuple[Any, ...], kwargs: Arguments) -> None:
        if self._capturing():
            super().run(call, args, kwargs)
            return
        stream = self.backend.device.current_stream(call.device)

        def on_the_callers_stream() -> None:
            with self.backend.device.use_stream(stream):
                start(self.backend, call.kernel, args, kwargs)

        aside(self.backend, call.device, on_the_callers_stream, wait=False)


from_another_thread = LegalVariant(
    "launcher.launches-from-another-thread",
    "launcher",
    "Kernels are started by a worker thread, on the caller's stream and under the tensors' device.",
    lambda backend: replace(backend, launcher=_FromAnotherThread(backend)),
)


@contextlib.contextmanager
def _thrice(backend: Backend, index: int) -> Iterator[None]:
    with backend.device.use(index), backend.device.use(0), backend.device.use(index):
        yield


def _switches_often(backend: Backend) -> Plain:
    launcher = Plain(backend)
    launcher._device = Changed(backend.device, use=lambda index: _thrice(backend, index))
    return launcher


switches_often = LegalVariant(
    "launcher.switches-devices-often",
    "launcher",
    "A launch passes through another device on its way to the tensors', and restores the caller's in the end.",
    lambda backend: replace(backend, launcher=_switches_often(backend)),
)
