"""Kernels that the laws launch: Python functions that write in place, made anew so that each begins cold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hardpoint.launcher import python_kernel

Kernel = Callable[..., None]


def scale_kernel() -> Kernel:
    """``out[:] = x * factor``; nothing is allocated, so that it can be captured."""

    def scale(out: torch.Tensor, x: torch.Tensor, factor: Any) -> None:
        torch.mul(x, factor, out=out)

    return scale


def add_kernel() -> Kernel:
    """``out += x``: shows how often it ran."""

    def add(out: torch.Tensor, x: torch.Tensor) -> None:
        out.add_(x)

    return add


def failing_kernel() -> Kernel:
    """Raises as soon as it runs."""

    def fail(out: torch.Tensor) -> None:
        raise ArithmeticError("planted in the kernel")

    return fail


def typed_kernel() -> Kernel:
    """``out[:] = x``, and declared for float32 alone."""

    @python_kernel(dtypes={"out": ("float32",), "x": ("float32",)})
    def typed(out: torch.Tensor, x: torch.Tensor) -> None:
        out.copy_(x)

    return typed


def gather_kernel() -> Kernel:
    """``out += part`` for every part of a list."""

    def gather(out: torch.Tensor, parts: list[torch.Tensor]) -> None:
        for part in parts:
            out.add_(part)

    return gather


def blocked_kernel() -> Kernel:
    """``out[:] = block``, and `block` is declared as a compile-time constant."""

    @python_kernel(constants=("block",))
    def blocked(out: torch.Tensor, block: int) -> None:
        out.fill_(float(block))

    return blocked


def optional_kernel() -> Kernel:
    """``out[:] = n``, plus `x` if it is given."""

    def optional(out: torch.Tensor, x: torch.Tensor | None, n: int) -> None:
        out.fill_(float(n % 97))
        if x is not None:
            out.add_(x)

    return optional
