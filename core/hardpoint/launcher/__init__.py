"""Kernel launching: the Protocol, the choice among offered kernels, and the plain launcher for Python kernels."""

from hardpoint.launcher.by_kind import LauncherByKind
from hardpoint.launcher.protocol import BoundKernel, KernelLauncher, KernelOffer, LaunchPlan, Refusal
from hardpoint.launcher.python_kernel import KernelFacts, python_kernel
from hardpoint.launcher.python_launcher import PythonLauncher
from hardpoint.launcher.specialisation import Specialisation, specialise

__all__ = [
    "BoundKernel",
    "KernelFacts",
    "KernelLauncher",
    "KernelOffer",
    "LaunchPlan",
    "LauncherByKind",
    "PythonLauncher",
    "Refusal",
    "Specialisation",
    "python_kernel",
    "specialise",
]
