"""The faults of the five field reports, each planted in a backend, with the law of the kit that has to name it.

A fault wraps one part of the backend that it is given. Tests use the same classes to show what users saw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from hardpoint.backend import Backend
from hardpoint.conformance.mutant import Mutant
from hardpoint_sim.driver import Driver


class Wrapped:
    """A part that answers as `base` does; a fault overrides what it breaks."""

    def __init__(self, base: Any) -> None:
        self.base = base

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)


def _launcher(wrap: Callable[[Any], Any]) -> Callable[[Backend], Backend]:
    return lambda backend: replace(backend, launcher=wrap(backend.launcher))


def _device(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Index of the first tensor's device."""
    return next(value.get_device() for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))


# -- FR1: a kernel runs where the thread is, not where its tensors are ------------------------------------------------


class LaunchesWhereTheThreadIs(Wrapped):
    """What Triton does: the kernel starts on the thread's current device, whatever its tensors say."""

    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        Driver(self.base.engine).launch(kernel, args, kwargs)


class StaysWhereTheTensorsAre(Wrapped):
    """The fix without its second half: the tensors' device is made current, and stays so after the launch."""

    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        self.base.launch(kernel, *args, **kwargs)
        self.base.engine.set_current(_device(args, kwargs))


class AsksOneTensorOnly(Wrapped):
    """The fix for well-behaved callers: the first tensor decides, the others are not looked at."""

    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        with self.base.engine.use(_device(args, kwargs)):
            Driver(self.base.engine).launch(kernel, args, kwargs)


launches_where_the_thread_is = Mutant(
    "launcher.fr1-where-the-thread-is",
    "launcher.device-from-tensors",
    "launcher",
    "A launch goes to the thread's current device, wherever its tensors are.",
    _launcher(LaunchesWhereTheThreadIs),
)
stays_where_the_tensors_are = Mutant(
    "launcher.fr1-stays-there",
    "launcher.current-device-is-restored",
    "launcher",
    "After a launch the tensors' device is still current.",
    _launcher(StaysWhereTheTensorsAre),
)
asks_one_tensor_only = Mutant(
    "launcher.fr1-first-tensor-decides",
    "launcher.refuses-two-devices",
    "launcher",
    "The first tensor's device is used, and tensors elsewhere are not noticed before the launch.",
    _launcher(AsksOneTensorOnly),
)
# -- FR2: a kernel's first load inside a capture ----------------------------------------------------------------------


class LoadsAtFirstLaunch(Wrapped):
    """What Triton does: a kernel is loaded at its first launch on a device, in a capture or not.

    `driver_refuses`: the driver does not load modules while a stream is being captured; whether it does is a matter of
    its version.
    """

    def __init__(self, base: Any, driver_refuses: bool) -> None:
        super().__init__(base)
        self.driver_refuses = driver_refuses
        self.loaded: set[tuple[Any, int]] = set()

    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        engine = self.base.engine
        with engine.use(_device(args, kwargs)):
            if (kernel, engine.current()) not in self.loaded:
                if self.driver_refuses and engine.current_stream().recording is not None:
                    raise RuntimeError("Triton Error [CUDA]: operation not permitted when stream is capturing")
                self.loaded.add((kernel, engine.current()))
            Driver(engine).launch(kernel, args, kwargs)


class ReturnsEarlyWhileCapturing(Wrapped):
    """The fix that was proposed upstream: what is not loaded yet is left out while capturing."""

    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        with self.base.engine.use(_device(args, kwargs)):
            capturing = self.base.engine.current_stream().recording is not None
            if capturing and not self.base.explain(kernel, *args, **kwargs).loaded:
                return
        self.base.launch(kernel, *args, **kwargs)


class WarmAnywhereIsWarm(Wrapped):
    """The fix that one GPU suggests: a kernel that was loaded on some device counts as loaded on every one."""

    def __init__(self, base: Any) -> None:
        super().__init__(base)
        self.warm: set[Any] = set()

    def preload(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        self.base.preload(kernel, *args, **kwargs)
        self.warm.add(kernel)

    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        if kernel in self.warm:
            with self.base.engine.use(_device(args, kwargs)):
                Driver(self.base.engine).launch(kernel, args, kwargs)
            return
        self.base.launch(kernel, *args, **kwargs)


loads_at_first_launch = Mutant(
    "launcher.fr2-loads-at-first-launch",
    "launcher.cold-launch-in-capture-is-refused",
    "launcher",
    "A cold kernel in a capture fails with the driver's words, which name neither kernel nor remedy.",
    _launcher(lambda base: LoadsAtFirstLaunch(base, driver_refuses=True)),
)
loads_where_the_driver_lets_it = Mutant(
    "launcher.fr2-loads-where-the-driver-lets-it",
    "launcher.cold-launch-in-capture-is-refused",
    "launcher",
    "A cold kernel in a capture is loaded without a word, which other drivers refuse.",
    _launcher(lambda base: LoadsAtFirstLaunch(base, driver_refuses=False)),
)
returns_early_while_capturing = Mutant(
    "launcher.fr2-returns-early",
    "launcher.cold-launch-in-capture-is-refused",
    "launcher",
    "A cold kernel in a capture is left out: the graph lacks it.",
    _launcher(ReturnsEarlyWhileCapturing),
)
warm_anywhere_is_warm = Mutant(
    "launcher.fr2-warm-anywhere-is-warm",
    "launcher.cold-launch-in-capture-is-refused",
    "launcher",
    "A kernel that is loaded on one device counts as loaded on another one.",
    _launcher(WarmAnywhereIsWarm),
)
