"""Launches that compute something else, or lose errors."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch

from hardpoint.conformance.mutants._launch import (
    Arguments,
    Plain,
    mapped,
)
from hardpoint.conformance.mutants.launcher._plant import plant
from hardpoint.launcher.python_launcher import _Call

# -- what a launch computes ----------------------------------------------------------------------------------------


class _RunsTwice(Plain):
    def run(self, call: _Call, args: tuple[Any, ...], kwargs: Arguments) -> None:
        super().run(call, args, kwargs)
        super().run(call, args, kwargs)


runs_twice = plant(
    "runs-twice",
    "launch-computes",
    "Every launch runs its kernel twice, as a careless retry or timing does.",
    _RunsTwice,
)


class _FirstLaunchOnlyLoads(Plain):
    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        call = self._check(kernel, args, kwargs)
        cold = call not in self._loaded
        with self._device.use(call.device):
            self._load(call)
            if not cold:
                self.run(call, args, kwargs)


first_launch_only_loads = plant(
    "first-launch-only-loads",
    "launch-computes",
    "The first launch of a form compiles and loads it, and runs nothing.",
    _FirstLaunchOnlyLoads,
)


class _LeavesTheTail(Plain):
    def run(self, call: _Call, args: tuple[Any, ...], kwargs: Arguments) -> None:
        def blocks(tensor: torch.Tensor) -> torch.Tensor:
            return tensor[..., : tensor.shape[-1] // 4 * 4] if tensor.shape[-1] > 4 else tensor

        super().run(call, mapped(args, blocks), mapped(kwargs, blocks))


leaves_the_tail = plant(
    "leaves-the-tail",
    "launch-computes",
    "The grid is rounded down: elements beyond the last full block of four are left.",
    _LeavesTheTail,
)


class _CopiesViews(Plain):
    def run(self, call: _Call, args: tuple[Any, ...], kwargs: Arguments) -> None:
        super().run(call, mapped(args, torch.Tensor.contiguous), mapped(kwargs, torch.Tensor.contiguous))


copies_views = plant(
    "copies-views",
    "launch-computes",
    "A view with gaps is made contiguous for the kernel, and the result goes into the copy.",
    _CopiesViews,
)


class _PreloadMarksDone(Plain):
    def preload(self, kernel: Any, *args: Any, devices: Sequence[int] | None = None, **kwargs: Any) -> None:
        super().preload(kernel, *args, devices=devices, **kwargs)
        self.skipped = {*getattr(self, "skipped", ()), kernel}

    def run(self, call: _Call, args: tuple[Any, ...], kwargs: Arguments) -> None:
        if call.kernel not in getattr(self, "skipped", ()):
            super().run(call, args, kwargs)


preload_marks_done = plant(
    "preload-marks-done",
    "launch-computes",
    "A kernel that was preloaded counts as launched already.",
    _PreloadMarksDone,
)


# -- errors --------------------------------------------------------------------------------------------------------


class _LosesErrors(Plain):
    def run(self, call: _Call, args: tuple[Any, ...], kwargs: Arguments) -> None:
        with contextlib.suppress(ArithmeticError):
            super().run(call, args, kwargs)


loses_errors = plant(
    "loses-errors",
    "kernel-errors-are-raised",
    "An error in a kernel is dropped, and the launch counts as done.",
    _LosesErrors,
)


class _LosesWords(Plain):
    def run(self, call: _Call, args: tuple[Any, ...], kwargs: Arguments) -> None:
        try:
            super().run(call, args, kwargs)
        except ArithmeticError:
            raise RuntimeError("unspecified launch failure") from None


loses_words = plant(
    "loses-words",
    "kernel-errors-are-raised",
    "An error in a kernel is raised without what it said.",
    _LosesWords,
)
