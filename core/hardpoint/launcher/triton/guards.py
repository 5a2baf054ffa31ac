"""What a compiled form assumes of each argument, as data, and the test for it as Python source.

Triton compiles one form per specialisation: dtype and 16-byte alignment of pointers, 32 or 64 bits and divisibility by
16 of integers, None-ness, the value 1, and the values of constants (triton/runtime/jit.py, `native_specialize_impl`).
A form may be called again without asking Triton as long as every assumption that it *relies on* still holds: a form
compiled for an unaligned pointer or for any integer is right for aligned and divisible ones too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

INT32 = (-(2**31), 2**31 - 1)
INT64 = (-(2**63), 2**63 - 1)
UINT64 = (2**63, 2**64 - 1)


@dataclass(frozen=True)
class Guard:
    """The assumption about one parameter.

    Attributes:
        name: the parameter.
        kind: ``pointer``, ``int``, ``float``, ``bool``, ``constant`` (compared by value), ``opaque`` (cannot be bound).
        dtype: torch dtype of a pointer's tensor.
        aligned: a pointer has to be a multiple of 16 bytes.
        divisible: an integer has to be a multiple of 16.
        bounds: inclusive range of an integer where the C launcher would not notice one that does not fit; a 32-bit or
            declared width needs none, since converting the argument fails there before anything is launched.
        value: what a constant has to equal.
        pinned: the argument also has to equal `value`, since a choice made at binding depends on it (autotuning keys).
    """

    name: str
    kind: str
    dtype: Any = None
    aligned: bool = False
    divisible: bool = False
    bounds: tuple[int, int] | None = None
    value: Any = None
    pinned: bool = False


def guard_for(name: str, entry: tuple[Any, ...], value: Any, *, annotated: bool, constexpr: bool) -> Guard:
    """The guard of a parameter from Triton's own specialisation entry ``(type, attributes)`` and the argument itself.

    Args:
        name: parameter name.
        entry: what Triton's binder said of the argument, for example ``("*bf16", "D")`` or ``("constexpr", 1)``.
        value: the argument.
        annotated: the kernel declares the parameter's type, so its width does not depend on the value.
        constexpr: the kernel declares the parameter as a constant.
    """
    kind = entry[0]
    attributes = entry[1] if len(entry) > 1 and isinstance(entry[1], str) else ""
    if constexpr or value is None or kind == "constexpr":
        return Guard(name, "constant", value=value)
    if isinstance(kind, str) and kind.startswith("*") and hasattr(value, "data_ptr"):
        return Guard(name, "pointer", dtype=value.dtype, aligned="D" in attributes)
    if type(value) is bool:
        return Guard(name, "bool")
    if type(value) is int:
        narrow = annotated or INT32[0] <= value <= INT32[1]
        bounds = None if narrow else next(b for b in (INT64, UINT64) if b[0] <= value <= b[1])
        return Guard(name, "int", divisible="D" in attributes, bounds=bounds)
    if type(value) is float:
        return Guard(name, "float")
    return Guard(name, "opaque", value=value)


def misses(guards: tuple[Guard, ...], device: str) -> list[str]:
    """Source of the tests that send a call to the slow path; names of parameters are used as they are.

    `device` is the source of the expected ``Tensor.get_device()``. Pointers are expected in ``_p_<name>``, values of
    constants in ``_v_<name>``, dtypes in ``_d_<name>``.
    """
    tests = []
    aligned = [f"_p_{g.name}" for g in guards if g.kind == "pointer" and g.aligned]
    for guard in guards:
        name = guard.name
        if guard.kind == "pointer":
            tests.append(f"{name}.dtype is not _d_{name}")
            tests.append(f"{name}.get_device() != {device}")
        elif guard.kind == "int":
            tests.append(f"type({name}) is not int")
            if guard.divisible:
                tests.append(f"{name} & 15")
            if guard.bounds is not None:
                tests.append(f"not {guard.bounds[0]} <= {name} <= {guard.bounds[1]}")
        elif guard.kind == "float":
            tests.append(f"type({name}) is not float")
        elif guard.kind == "bool":
            tests.append(f"type({name}) is not bool")
        if guard.kind == "constant" or guard.pinned:
            tests.append(_differs(name, guard.value))
    if aligned:
        tests.append(f"({' | '.join(aligned)}) & 15")
    return tests


def _differs(name: str, value: Any) -> str:
    """Source that is true when a constant differs: by identity for None and booleans, else by type and value."""
    if value is None or isinstance(value, bool):
        return f"{name} is not {value}"
    return f"({name} is not _v_{name} and (type({name}) is not type(_v_{name}) or {name} != _v_{name}))"
