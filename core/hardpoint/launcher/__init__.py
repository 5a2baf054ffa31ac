"""Kernel launching: the Protocol, and the plain launcher for Python kernels."""

from hardpoint.launcher.protocol import BoundKernel, KernelLauncher, KernelOffer, LaunchPlan, Refusal

__all__ = ["BoundKernel", "KernelLauncher", "KernelOffer", "LaunchPlan", "Refusal"]
