"""Launching Triton kernels: a compiled form is bound once per device and specialisation, then called directly.

Nothing here imports Triton before the first kernel is bound, so that backends without Triton can import the package.
"""

from hardpoint.launcher.triton.host import TritonHost
from hardpoint.launcher.triton.launcher import TritonLauncher

__all__ = ["TritonHost", "TritonLauncher"]
