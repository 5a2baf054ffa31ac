"""`SimLauncher`: `hardpoint.launcher.KernelLauncher` for Python kernels on simulated devices.

A kernel is a Python function. It runs late, as one item of the stream, and gets the host tensors behind its arguments;
it writes in place and returns nothing. The launcher's rules are those of every backend: the device comes from the
tensors, refusals come before anything runs, a cold kernel in a capture is an error that names the preload call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from hardpoint.errors import LaunchRefused
from hardpoint.launcher import BoundKernel, LaunchPlan

from hardpoint_sim.driver import Driver, kernel_name, tensor_arguments
from hardpoint_sim.tensor import SimTensor

if TYPE_CHECKING:
    from hardpoint_sim.engine import Engine


@dataclass(frozen=True)
class SimLauncher:
    """Launches Python kernels through the `Driver` of one engine."""

    engine: Engine
    driver: Driver = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "driver", Driver(self.engine))

    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> BoundKernel:
        index = self._index(kernel, args, kwargs)
        text = specialisation(args, kwargs)
        with self.engine.use(index):
            self.driver.load(kernel, text)
        return _Bound(self, kernel, index, text)

    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        with self.engine.use(self._index(kernel, args, kwargs)):
            self.driver.launch(kernel, specialisation(args, kwargs), args, kwargs)

    def preload(self, kernel: Any, *args: Any, devices: Sequence[int] | None = None, **kwargs: Any) -> None:
        for index in [self._index(kernel, args, kwargs)] if devices is None else devices:
            with self.engine.use(index):
                self.driver.load(kernel, specialisation(args, kwargs))

    def explain(self, kernel: Any, *args: Any, **kwargs: Any) -> LaunchPlan:
        text = specialisation(args, kwargs)
        try:
            index = self._index(kernel, args, kwargs)
        except LaunchRefused as refusal:
            return LaunchPlan(kernel_name(kernel), None, text, False, str(refusal))
        loaded = self.driver.loaded(index, kernel, text)
        refusal_text = None
        if not loaded and self.engine.current_stream(index).recording is not None:
            refusal_text = f"it is not loaded on sim:{index}, where a graph is being captured; preload it before"
        return LaunchPlan(kernel_name(kernel), f"sim:{index}", text, loaded, refusal_text)

    def _index(self, kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """The device that all tensors are on; LaunchRefused, naming the arguments, if there is none."""
        name = kernel_name(kernel)
        if not callable(kernel):
            raise LaunchRefused(f"a kernel of the simulator is a Python function, got {kernel!r}")
        tensors = list(tensor_arguments(args, kwargs))
        if not tensors:
            raise LaunchRefused(f"kernel {name} has no tensor argument, so there is no device to launch it on")
        where = ", ".join(f"argument {label} on {tensor.device}" for label, tensor in tensors)
        for label, tensor in tensors:
            if not isinstance(tensor, SimTensor):
                raise LaunchRefused(
                    f"kernel {name}: argument {label} is on the host ({where}); a kernel reads device memory only, "
                    "copy it to the device first"
                )
        if len({tensor.device for _, tensor in tensors}) > 1:
            raise LaunchRefused(f"kernel {name}: its tensors are on different devices: {where}; copy them to one")
        return int(tensors[0][1].device.index)


@dataclass(frozen=True)
class _Bound:
    """A kernel loaded for one device and specialisation."""

    launcher: SimLauncher
    kernel: Any
    index: int
    specialisation: str

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        index = self.launcher._index(self.kernel, args, kwargs)
        text = specialisation(args, kwargs)
        if (index, text) != (self.index, self.specialisation):
            raise LaunchRefused(
                f"kernel {kernel_name(self.kernel)} is bound to sim:{self.index} [{self.specialisation}], and was "
                f"called with arguments for sim:{index} [{text}]; bind it for those as well"
            )
        with self.launcher.engine.use(index):
            self.launcher.driver.launch(self.kernel, text, args, kwargs)


def specialisation(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """What a compiler such as Triton's would compile anew for: dtypes, alignment, None, integer classes, constants."""
    parts = [_kind(value) for value in args] + [f"{name}={_kind(value)}" for name, value in kwargs.items()]
    return ", ".join(parts)


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        aligned = value.data_ptr() % 16 == 0
        return f"*{str(value.dtype).removeprefix('torch.')}{':16' if aligned else ''}"
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return repr(value)
    if isinstance(value, int):
        return "1" if value == 1 else "int:16" if value % 16 == 0 else "int"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(_kind(item) for item in value)})"
    return type(value).__name__
