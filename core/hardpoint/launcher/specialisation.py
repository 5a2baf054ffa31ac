"""The specialisation key: what a compiled form of a kernel depends on, as a pure function of the arguments.

It is what Triton specialises on (triton/runtime/jit.py, `native_specialize_impl`, 3.6 to 3.9): dtype and 16-byte
alignment of pointers, None-ness, the class of integers (the value 1, divisible by 16, 32 or 64 bits), constants by
value, and the launch options. Floats and bools are not specialised by value. Two calls with equal keys may share a
compiled form; two calls that need different forms have different keys.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from hardpoint.errors import LaunchRefused

ALIGNMENT = 16
INTEGER_RANGES = (("i32", -(2**31), 2**31 - 1), ("i64", -(2**63), 2**63 - 1), ("u64", 2**63, 2**64 - 1))


@dataclass(frozen=True)
class Specialisation:
    """Key of one compiled form. Hashable; equal if and only if the form may be shared.

    Attributes:
        arguments: ``(name, class)`` in the kernel's order, for example ``("x", "*bfloat16:16")``, ``("n", "i32:16")``.
        options: launch options such as ``("num_warps", "int 4")``, sorted by name.
    """

    arguments: tuple[tuple[str, str], ...]
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return ", ".join(f"{name}: {kind}" for name, kind in (*self.arguments, *self.options))


def specialise(
    arguments: Mapping[str, Any], *, constants: Collection[str] = (), options: Mapping[str, Any] | None = None
) -> Specialisation:
    """Key of a call.

    Args:
        arguments: by name, in the kernel's order.
        constants: names of the parameters that the kernel takes as compile-time constants.
        options: launch options; all of them count by value.

    Raises LaunchRefused for an integer that no kernel parameter can hold.
    """
    kinds = tuple(
        (name, f"={_constant(value)}" if name in constants else classify(value, name))
        for name, value in arguments.items()
    )
    return Specialisation(kinds, tuple(sorted((name, _constant(value)) for name, value in (options or {}).items())))


def classify(value: Any, name: str = "?") -> str:
    """Class of one argument that is not a constant."""
    if value is None:
        return "none"
    if hasattr(value, "data_ptr") and hasattr(value, "dtype"):
        return f"*{str(value.dtype).removeprefix('torch.')}{alignment(value)}"
    if isinstance(value, bool):
        return "u1"
    if isinstance(value, int):
        return _integer(value, name)
    if isinstance(value, float):
        return "fp32"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(classify(item, f'{name}[{index}]') for index, item in enumerate(value))})"
    return f"={_constant(value)}"


def alignment(tensor: Any) -> str:
    """``":16"`` if the tensor's address is a multiple of 16 bytes, ``""`` if not, ``":?"`` where it has no address."""
    try:
        address = tensor.data_ptr()
    except RuntimeError:  # fake, functional and some wrapper tensors have no storage: torch says so by this error
        return ":?"
    return f":{ALIGNMENT}" if address % ALIGNMENT == 0 else ""


def _integer(value: int, name: str) -> str:
    if value == 1:
        return "1"
    for width, low, high in INTEGER_RANGES:
        if low <= value <= high:
            return f"{width}:{ALIGNMENT}" if value % ALIGNMENT == 0 else width
    raise LaunchRefused(
        f"argument {name} is the integer {value}, which fits into no kernel parameter (64 bits); nothing was launched"
    )


def _constant(value: Any) -> str:
    # The type counts: 1, True and 1.0 are equal in Python, and three different constants to a compiler.
    if isinstance(value, (tuple, list)):
        return f"({', '.join(_constant(item) for item in value)})"
    return f"{type(value).__name__} {value!r}"
