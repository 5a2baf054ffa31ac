"""The direct call in C, compiled once per machine by the compiler that Triton itself needs; Python where there is none.

On an H100's host the Python call costs 9.4 us for 12 arguments, of which Triton's C launcher is 5; most of the rest is
the interpreter going through six tensors three times.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any

from hardpoint.launcher.triton.guards import Guard
from hardpoint.launcher.triton.host import TritonHost

log = logging.getLogger("hardpoint.launcher")
NAME = "hardpoint_direct_call"
_KINDS = {"pointer": 0, "int": 1, "float": 2, "bool": 3, "constant": 4}
_LONG = (-(2**63), 2**63 - 1)
VARIABLE = "HARDPOINT_NATIVE_LAUNCH"


@cache
def module() -> Any | None:
    """The compiled module; None, said in the log once, if it cannot be had or ``HARDPOINT_NATIVE_LAUNCH=off``."""
    if os.environ.get(VARIABLE, "on").strip().lower() == "off":
        log.info("%s=off: kernels are launched by the generated Python call.", VARIABLE)
        return None
    try:
        from triton.runtime.build import compile_module_from_src

        source = resources.files("hardpoint.launcher.triton").joinpath("direct_call.c").read_text()
        return compile_module_from_src(source, NAME)
    except Exception as error:  # noqa: BLE001 - a compiler, a cache directory and a loader may fail in any way
        log.warning(
            "The direct call in C cannot be built here (%s: %s): kernels are launched by the generated Python call, "
            "right but about 3 us slower.",
            type(error).__name__,
            error,
        )
        return None


def entry(
    parameters: tuple[inspect.Parameter, ...],
    guards: tuple[Guard, ...],
    fallbacks: dict[str, Any],
    device: int,
    grid: tuple[int, int, int] | None,
    launch: Any,
    host: TritonHost,
    hooks: Any,
    otherwise: Callable[..., None],
) -> Callable[..., None]:
    """The call in C in front of `otherwise`, the same in Python; `otherwise` itself where C cannot take its place.

    Args:
        fallbacks: what a parameter that is not given stands for; those without one have to be given.
        launch: the `DirectLaunch` to be entered.
    """
    native = module()
    if native is None:
        return otherwise
    rows = []
    for parameter, guard in zip(parameters, guards, strict=True):
        low, high = guard.bounds or (0, 0)
        if not (_LONG[0] <= low and high <= _LONG[1]):
            return otherwise  # a range that a C long long does not hold
        rows.append(
            (
                parameter.name, _KINDS[guard.kind], guard.dtype, guard.value, guard.aligned, guard.divisible, low, high,
                guard.bounds is not None, guard.pinned, parameter.name in fallbacks, fallbacks.get(parameter.name),
            )
        )  # fmt: skip
    try:
        made: Callable[..., None] = native.entry(
            tuple(rows), launch.before, launch.pointers_as_ints, device, grid, launch.function, host.current,
            host.exchange, host.raw_stream, hooks, otherwise,
        )  # fmt: skip
    except (TypeError, ValueError, AttributeError) as error:
        log.warning("The direct call in C does not fit (%s): the generated Python call is used.", error)
        return otherwise
    return made
