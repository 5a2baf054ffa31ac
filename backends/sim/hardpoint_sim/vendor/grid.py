"""Kernels with a grid of programs, and a driver that fails on a grid that the chip cannot start."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from hardpoint.errors import DeviceError
from hardpoint.launcher import BoundKernel, KernelLauncher, LaunchPlan

Grid = tuple[int, ...]
AnyGrid = Grid | Callable[[dict[str, Any]], Grid]


class GridKernel:
    """``function(program, grid, *args)``, called once per program. It has a `run`, as compiled kernels do."""

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function
        self.__name__ = function.__name__
        self._over: dict[Grid, Callable[..., None]] = {}

    def run(self, *args: Any, grid: Grid, **kwargs: Any) -> None:
        """All programs, in order."""
        for program in itertools.product(*(range(size) for size in grid)):
            self._function(program, grid, *args, **kwargs)

    def over(self, grid: Grid) -> Callable[..., None]:
        """The same kernel over a fixed grid; one object per grid, as the launcher's key."""
        if grid not in self._over:

            def launch(*args: Any, **kwargs: Any) -> None:
                self.run(*args, grid=grid, **kwargs)

            launch.__name__ = self.__name__
            self._over[grid] = launch
        return self._over[grid]


@dataclass(frozen=True)
class GridLauncher:
    """Launches `GridKernel` through `python`, the launcher of plain functions. A grid over `programs` fails.

    On the chip it fails after the launch, or starts part of the programs; here at once, by DeviceError.
    """

    python: KernelLauncher
    programs: int | None

    def bind(self, kernel: Any, *args: Any, grid: AnyGrid = (1,), **kwargs: Any) -> BoundKernel:
        return self.python.bind(self._over(kernel, grid, kwargs), *args, **kwargs)

    def launch(self, kernel: Any, *args: Any, grid: AnyGrid, **kwargs: Any) -> None:
        self.python.launch(self._over(kernel, grid, kwargs), *args, **kwargs)

    def preload(
        self, kernel: Any, *args: Any, devices: Sequence[int] | None = None, grid: AnyGrid = (1,), **kwargs: Any
    ) -> None:
        self.python.preload(self._over(kernel, grid, kwargs), *args, devices=devices, **kwargs)

    def explain(self, kernel: Any, *args: Any, grid: AnyGrid = (1,), **kwargs: Any) -> LaunchPlan:
        return self.python.explain(self._over(kernel, grid, kwargs), *args, **kwargs)

    def _over(self, kernel: GridKernel, grid: AnyGrid, kwargs: dict[str, Any]) -> Callable[..., None]:
        grid = grid(kwargs) if callable(grid) else grid
        if self.programs is not None and prod(grid) > self.programs:
            raise DeviceError(
                f"kernel {kernel.__name__} was launched with {prod(grid)} programs, the chip starts {self.programs}"
            )
        return kernel.over(grid)
