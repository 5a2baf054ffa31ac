"""`LauncherByKind`: Triton kernels to one launcher, Python functions over tensors to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hardpoint.launcher.protocol import BoundKernel, KernelLauncher, LaunchPlan


@dataclass(frozen=True)
class LauncherByKind:
    """A backend with a kernel compiler still launches plain functions: references, and the laws of conformance.

    Attributes:
        compiled: for kernels of the backend's compiler; they have a ``run`` method (Triton's do).
        python: for everything else.
    """

    compiled: KernelLauncher
    python: KernelLauncher

    def _for(self, kernel: Any) -> KernelLauncher:
        return self.compiled if hasattr(kernel, "run") else self.python

    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> BoundKernel:
        return self._for(kernel).bind(kernel, *args, **kwargs)

    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        self._for(kernel).launch(kernel, *args, **kwargs)

    def preload(self, kernel: Any, *args: Any, devices: Sequence[int] | None = None, **kwargs: Any) -> None:
        self._for(kernel).preload(kernel, *args, devices=devices, **kwargs)

    def explain(self, kernel: Any, *args: Any, **kwargs: Any) -> LaunchPlan:
        return self._for(kernel).explain(kernel, *args, **kwargs)
