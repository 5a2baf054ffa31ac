"""Triton kernels with their torch references; this package knows torch and Triton and nothing else."""

from hardpoint_kernels.errors import KernelRefused

__all__ = ["KernelRefused"]
