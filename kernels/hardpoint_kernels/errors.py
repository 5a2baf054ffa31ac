"""The one error of the kernels package: a call was refused before anything was launched."""

from __future__ import annotations


class KernelRefused(ValueError):
    """Arguments do not fit a kernel's contract, or the kernel cannot do this shape. Nothing was launched."""
