"""`python_kernel`: what a Python function declares when it is used as a kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
_ATTRIBUTE = "__hardpoint_kernel__"


@dataclass(frozen=True)
class KernelFacts:
    """Attributes:
    dtypes: parameter -> torch dtype names that it takes; a parameter that is absent takes any.
    constants: parameters that count by value in the specialisation key.
    """

    dtypes: Mapping[str, frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))
    constants: frozenset[str] = frozenset()


_NOTHING_DECLARED = KernelFacts()


def python_kernel(
    *, dtypes: Mapping[str, Iterable[str]] | None = None, constants: Iterable[str] = ()
) -> Callable[[F], F]:
    """Declare the dtypes and the constants of a Python kernel; the function itself is unchanged.

    @python_kernel(dtypes={"x": ("float32", "bfloat16")}, constants=("block",))
    def scale(x, factor, block): ...
    """

    def declare(function: F) -> F:
        taken = MappingProxyType({name: frozenset(names) for name, names in (dtypes or {}).items()})
        setattr(function, _ATTRIBUTE, KernelFacts(taken, frozenset(constants)))
        return function

    return declare


def facts_of(kernel: Any) -> KernelFacts:
    """What the kernel declares; an undecorated function declares nothing."""
    facts = getattr(kernel, _ATTRIBUTE, _NOTHING_DECLARED)
    return facts if isinstance(facts, KernelFacts) else _NOTHING_DECLARED
