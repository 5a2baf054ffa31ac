"""Faults in a capture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from hardpoint.backend import Backend
from hardpoint.conformance.mutants._launch import (
    Arguments,
    Plain,
    aside,
    mapped,
    start,
)
from hardpoint.conformance.mutants.launcher._plant import plant
from hardpoint.launcher.protocol import BoundKernel, LaunchPlan
from hardpoint.launcher.python_launcher import _Call


class _LoadsInCapture(Plain):
    def _load(self, call: _Call) -> None:
        self._loaded.add(call)


loads_in_capture = plant(
    "loads-in-capture",
    "cold-launch-in-capture-is-refused",
    "A cold kernel is loaded inside a capture: the second field report, on a driver that does not object.",
    _LoadsInCapture,
)


class _ExplainForgetsCaptures(Plain):
    def explain(self, kernel: Any, *args: Any, **kwargs: Any) -> LaunchPlan:
        plan = super().explain(kernel, *args, **kwargs)
        return replace(plan, refusal=None) if plan.specialisation else plan


explain_forgets_captures = plant(
    "explain-forgets-captures",
    "cold-launch-in-capture-is-refused",
    "Explain does not say that a cold launch is refused in the capture that is under way.",
    _ExplainForgetsCaptures,
)


class _SkipsInCapture(Plain):
    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        call = self._check(kernel, args, kwargs)
        with self._device.use(call.device):
            if self._cold_in_capture(call) is not None:
                return
        super().launch(kernel, *args, **kwargs)


skips_in_capture = plant(
    "skips-cold-kernels-in-capture",
    "cold-launch-in-capture-is-refused",
    "A cold launch inside a capture returns early, and the graph lacks the kernel: the fix that was proposed upstream.",
    _SkipsInCapture,
)


class _ColdByKernel(Plain):
    """`same` says whether a loaded form makes up for the one that is needed."""

    def __init__(self, backend: Backend, same: Callable[[_Call, _Call], bool]) -> None:
        super().__init__(backend)
        self._same = same

    def _cold_in_capture(self, call: _Call) -> str | None:
        if any(loaded.kernel is call.kernel and self._same(loaded, call) for loaded in self._loaded):
            return None
        return super()._cold_in_capture(call)


warm_elsewhere = plant(
    "warm-on-another-device-will-do",
    "cold-launch-in-capture-is-refused",
    "In a capture a kernel counts as loaded if it is loaded on any device.",
    lambda backend: _ColdByKernel(backend, lambda loaded, call: loaded.specialisation == call.specialisation),
)

warm_in_another_form = plant(
    "warm-in-another-form-will-do",
    "cold-launch-in-capture-is-refused",
    "In a capture a kernel counts as loaded if any form of it is loaded on that device.",
    lambda backend: _ColdByKernel(backend, lambda loaded, call: loaded.device == call.device),
)


class _BindLoadsInCapture(Plain):
    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> BoundKernel:
        call = self._check(kernel, args, kwargs)
        self._loaded.add(call)
        return super().bind(kernel, *args, **kwargs)


bind_loads_in_capture = plant(
    "bind-loads-in-capture",
    "cold-launch-in-capture-is-refused",
    "Launch refuses a cold kernel in a capture; bind loads it.",
    _BindLoadsInCapture,
)


class _NoWayOut(Plain):
    def _cold_in_capture(self, call: _Call) -> str | None:
        return super()._cold_in_capture(call) and "operation not permitted when stream is capturing"


no_way_out = plant(
    "cold-launch-says-what-the-driver-says",
    "cold-launch-in-capture-is-refused",
    "A cold launch in a capture fails with the driver's words, which name neither the kernel nor what to do.",
    _NoWayOut,
)


class _RunsAsideInCapture(Plain):
    """In a capture kernels run at once, beside it; `also_recorded`: and are recorded."""

    def __init__(self, backend: Backend, also_recorded: bool) -> None:
        super().__init__(backend)
        self._recorded = also_recorded

    def run(self, call: _Call, args: tuple[Any, ...], kwargs: Arguments) -> None:
        if self._capturing():
            aside(self.backend, call.device, lambda: start(self.backend, call.kernel, args, kwargs))
            if not self._recorded:
                return
        super().run(call, args, kwargs)


runs_in_capture = plant(
    "runs-instead-of-being-recorded",
    "launch-in-capture-is-recorded",
    "Inside a capture a kernel runs at once and is not in the graph.",
    lambda backend: _RunsAsideInCapture(backend, also_recorded=False),
)

runs_and_records = plant(
    "runs-and-is-recorded",
    "launch-in-capture-is-recorded",
    "Inside a capture a kernel is recorded and runs at once as well.",
    lambda backend: _RunsAsideInCapture(backend, also_recorded=True),
)


class _RecordsOnce(Plain):
    """A second launch of the same call in one capture is taken for a repetition."""

    def run(self, call: _Call, args: tuple[Any, ...], kwargs: Arguments) -> None:
        seen = self.__dict__.setdefault("seen", [])
        if not self._capturing():
            seen.clear()
        elif call in seen:
            return
        else:
            seen.append(call)
        super().run(call, args, kwargs)


records_once = plant(
    "records-a-kernel-once",
    "launch-in-capture-is-recorded",
    "A kernel that is launched twice in a capture is in the graph once.",
    _RecordsOnce,
)


class _BoundSkippedInCapture(Plain):
    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> BoundKernel:
        bound = super().bind(kernel, *args, **kwargs)

        def unless_capturing(*args: Any, **kwargs: Any) -> None:
            if not self._capturing():
                bound(*args, **kwargs)

        return unless_capturing


bound_skipped_in_capture = plant(
    "bound-calls-are-not-recorded",
    "launch-in-capture-is-recorded",
    "A bound call inside a capture does nothing.",
    _BoundSkippedInCapture,
)


class _RecordsCopies(Plain):
    def run(self, call: _Call, args: tuple[Any, ...], kwargs: Arguments) -> None:
        if self._capturing():
            kept = self.__dict__.setdefault("kept", [])
            copies = aside(self.backend, call.device, lambda: mapped(args[1:], torch.Tensor.clone))
            kept.append(copies)
            args = (args[0], *copies)
        super().run(call, args, kwargs)


records_copies = plant(
    "records-copies-of-inputs",
    "launch-in-capture-is-recorded",
    "A kernel is recorded with copies of its inputs, and a replay reads what they held during the capture.",
    _RecordsCopies,
)
