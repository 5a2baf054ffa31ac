"""`GridLimited`: no launch with more programs than the chip starts. And the grid that never has too many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from hardpoint.errors import LaunchRefused
from hardpoint.launcher import BoundKernel, KernelLauncher, LaunchPlan
from hardpoint_npu.facts import PROGRAMS

Grid = tuple[int, ...] | Callable[[dict[str, Any]], tuple[int, ...]]


def persistent_grid(items: int, cores: int) -> tuple[int]:
    """A one-dimensional grid for a kernel whose programs loop: one program per core, or per item if these are fewer."""
    return (max(1, min(items, cores, PROGRAMS)),)


@dataclass(frozen=True)
class GridLimited:
    """`inner`, asked only for grids whose product is at most `programs`. A kernel without a grid passes through."""

    inner: KernelLauncher
    programs: int = PROGRAMS

    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> BoundKernel:
        """The grid may come now or with each call; both are checked."""
        self._check(kernel, args, kwargs)
        bound = self.inner.bind(kernel, *args, **kwargs)

        def call(*again: Any, **named: Any) -> None:
            self._check(kernel, again, named)
            bound(*again, **named)

        return call

    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        """LaunchRefused, and nothing launched, for a grid that is too large."""
        self._check(kernel, args, kwargs)
        self.inner.launch(kernel, *args, **kwargs)

    def preload(self, kernel: Any, *args: Any, devices: Sequence[int] | None = None, **kwargs: Any) -> None:
        self.inner.preload(kernel, *args, devices=devices, **kwargs)

    def explain(self, kernel: Any, *args: Any, **kwargs: Any) -> LaunchPlan:
        refusal = self._refusal(kernel, args, kwargs)
        if refusal is not None:
            return LaunchPlan(_name(kernel), None, "", False, refusal)
        return self.inner.explain(kernel, *args, **kwargs)

    def _check(self, kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        refusal = self._refusal(kernel, args, kwargs)
        if refusal is not None:
            raise LaunchRefused(refusal)

    def _refusal(self, kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        grid: Grid | None = kwargs.get("grid") if hasattr(kernel, "run") else None
        if callable(grid):
            names = getattr(kernel, "arg_names", ())
            grid = grid({**dict(zip(names, args, strict=False)), **{k: v for k, v in kwargs.items() if k != "grid"}})
        if grid is None or prod(grid) <= self.programs:
            return None
        return (
            f"kernel {_name(kernel)} was to be launched over the grid {tuple(grid)}, {prod(grid)} programs, and an NPU "
            f"starts at most {self.programs}; launch a persistent grid (hardpoint_npu.grid.persistent_grid) and let "
            "every program loop over its items"
        )


def _name(kernel: Any) -> str:
    return str(getattr(kernel, "__name__", None) or repr(kernel))
