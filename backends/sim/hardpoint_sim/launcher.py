"""`SimLauncher`: core's launcher for Python kernels, over the simulator's driver.

All rules (device from the tensors, refusals by argument name, cold kernels in a capture) are core's `PythonLauncher`;
what is the simulator's own is that a kernel does not run at the call: it is one late item of the current stream.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hardpoint.launcher import BoundKernel, LaunchPlan, PythonLauncher
from hardpoint.launcher.python_launcher import LaunchDevice
from hardpoint_sim.device import SimDevice
from hardpoint_sim.driver import Driver
from hardpoint_sim.engine import Engine


@dataclass(frozen=True)
class SimLauncher:
    """Launches Python kernels on the devices of one engine. A kernel writes in place and returns nothing.

    Attributes:
        device: guards the launches; a `SimDevice` if None.
    """

    engine: Engine
    device: LaunchDevice | None = None
    _rules: PythonLauncher = field(init=False, repr=False)
    _starters: dict[Callable[..., Any], Callable[..., None]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rules", PythonLauncher(self.device or SimDevice(self.engine), self._capturing))

    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> BoundKernel:
        return self._rules.bind(self._starter(kernel), *args, **kwargs)

    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        self._rules.launch(self._starter(kernel), *args, **kwargs)

    def preload(self, kernel: Any, *args: Any, devices: Sequence[int] | None = None, **kwargs: Any) -> None:
        self._rules.preload(self._starter(kernel), *args, devices=devices, **kwargs)

    def explain(self, kernel: Any, *args: Any, **kwargs: Any) -> LaunchPlan:
        return self._rules.explain(self._starter(kernel), *args, **kwargs)

    def _starter(self, kernel: Any) -> Any:
        """The function that core calls in the kernel's place: it queues the kernel. One per kernel, as the key."""
        if not callable(kernel):
            return kernel  # refused by core, in its words
        if kernel not in self._starters:
            driver = Driver(self.engine)

            @functools.wraps(kernel)
            def start(*args: Any, **kwargs: Any) -> None:
                driver.launch(kernel, args, kwargs)

            self._starters[kernel] = start
        return self._starters[kernel]

    def _capturing(self) -> bool:
        return self.engine.rules.capture_refuses_cold_load and self.engine.current_stream().recording is not None
