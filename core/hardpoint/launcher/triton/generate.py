"""The direct call of a compiled form, as generated Python.

A plain loop over arguments costs more than the launch itself (measured: Triton 3.6's binder alone takes 5.9 us for 12
arguments on an H100's host, the C launcher 4.3). So each form gets a function written for it: pointers are read once,
the guards are one chained condition, constants are already in place.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hardpoint.launcher.triton import native
from hardpoint.launcher.triton.arguments import MISSING
from hardpoint.launcher.triton.guards import Guard, misses
from hardpoint.launcher.triton.host import TritonHost


def three(grid: tuple[int, ...]) -> tuple[int, int, int]:
    """A grid of one to three sizes, filled up with 1."""
    x, y, z = (*grid, 1, 1)[:3]
    return x, y, z


@dataclass(frozen=True)
class DirectLaunch:
    """How the compiled form is entered.

    Attributes:
        function: callable in C that launches.
        before: arguments between the stream and the kernel's own, as the Triton version at hand wants them.
        pointers_as_ints: the C launcher takes addresses; it then skips its own checks, which the guards replace.
    """

    function: Callable[..., Any]
    before: tuple[Any, ...]
    pointers_as_ints: bool


def direct_call(
    parameters: tuple[inspect.Parameter, ...],
    guards: tuple[Guard, ...],
    device: int,
    grid: tuple[int, int, int] | None,
    launch: DirectLaunch,
    host: TritonHost,
    miss: Callable[..., None],
    hooks: Any,
    computed: Mapping[str, Callable[[dict[str, Any]], Any]],
    omittable: frozenset[str],
) -> Callable[..., None]:
    """Generate ``call(<parameters>, grid=None)``.

    Args:
        parameters: of the kernel, in order.
        guards: one per parameter.
        device: index the form is loaded on.
        grid: used when the call names none; None if every call has to name its own.
        launch: how to enter the form.
        host: runtime calls.
        miss: called with the same arguments when a guard does not hold; it refuses, or finds another form.
        hooks: Triton's ``knobs.runtime``: while it holds launch hooks (a profiler's), the slow path runs, so that they
            see every launch.
        computed: parameters that @triton.heuristics computes; they are computed again at each call, since what they
            look at is not known, over one dict of all arguments.
    """
    # A kernel's parameters are names of the generated function, so its own names all begin with an underscore, except
    # `grid`; `launcher._bindable` keeps kernels away whose parameters are named so.
    source, namespace = _source(parameters, guards, device, grid, launch, computed, omittable)
    namespace |= {"_miss": miss, "_launch": launch.function, "_DEV": device, "_three": three}
    enter, leave = hooks.launch_enter_hook, hooks.launch_exit_hook
    namespace |= {"_hooks": hooks, "_enter": enter, "_leave": leave}
    namespace |= {"_current": host.current, "_exchange": host.exchange, "_stream": host.raw_stream}
    exec(compile(source, f"<bound launch on {host.type}:{device}>", "exec"), namespace)
    call: Callable[..., None] = namespace["call"]
    call.__doc__ = source
    if computed:  # heuristics are Python anyway
        return call
    fallbacks = {
        p.name: namespace[f"_default_{p.name}"] for p in parameters if namespace[f"_default_{p.name}"] is not MISSING
    }
    return native.entry(parameters, guards, fallbacks, device, grid, launch, host, hooks, call)


def _source(
    parameters: tuple[inspect.Parameter, ...],
    guards: tuple[Guard, ...],
    device: int,
    grid: tuple[int, int, int] | None,
    launch: DirectLaunch,
    computed: Mapping[str, Callable[[dict[str, Any]], Any]],
    omittable: frozenset[str],
) -> tuple[str, dict[str, Any]]:
    namespace: dict[str, Any] = {}
    heads, forwarded, passed, pointers = [], [], [], []
    for parameter, guard in zip(parameters, guards, strict=True):
        name = parameter.name
        if name in omittable:
            namespace[f"_default_{name}"] = guard.value
        elif parameter.default is not inspect.Parameter.empty:
            namespace[f"_default_{name}"] = parameter.default
        else:
            namespace[f"_default_{name}"] = MISSING
        heads.append(f"{name}=_default_{name}")
        forwarded.append(f"{name}={name}")
        if guard.kind == "pointer":
            namespace[f"_d_{name}"] = guard.dtype
            pointers.append(f"_p_{name} = {name}.data_ptr()")
            passed.append(f"_p_{name}" if launch.pointers_as_ints else name)
        elif guard.kind == "constant":
            passed.append(f"_v_{name}")
        else:
            passed.append(name)
        if guard.kind == "constant" or guard.pinned:
            namespace[f"_v_{name}"] = guard.value
    for number, value in enumerate(launch.before):
        namespace[f"_b{number}"] = value
    tests = " or ".join(misses(guards, str(device))) or "False"
    heuristics = []
    if computed:
        heuristics.append("_all = {" + ", ".join(f"{p.name!r}: {p.name}" for p in parameters) + "}")
        for name, function in computed.items():
            namespace[f"_h_{name}"] = function
            heuristics.append(f"{name} = _all[{name!r}] = _h_{name}(_all)")
    again = f"return _miss({', '.join([*forwarded, 'grid=grid'])})"
    arguments = ", ".join([f"_b{n}" for n in range(len(launch.before))] + passed)
    namespace["_grid"] = grid
    lines = [
        f"def call({', '.join([*heads, 'grid=_grid'])}):",
        "    if type(grid) is not tuple or _hooks.launch_enter_hook is not _enter or _enter.calls \\",
        "            or _hooks.launch_exit_hook is not _leave or _leave.calls:",
        f"        {again}",
        *[f"    {line}" for line in heuristics],
        "    try:",
        *[f"        {line}" for line in pointers],
        f"        _missed = {tests}",
        "    except (AttributeError, TypeError):",
        "        _missed = True",
        "    if _missed:",
        f"        {again}",
        "    if grid is _grid:",
        "        _gx, _gy, _gz = grid",
        "    else:",
        "        _gx, _gy, _gz = _three(grid)",
        "    try:",
        "        if _current() == _DEV:",
        f"            _launch(_gx, _gy, _gz, _stream(_DEV), {arguments})",
        "            return",
        "        _before = _exchange(_DEV)",
        "        try:",
        f"            _launch(_gx, _gy, _gz, _stream(_DEV), {arguments})",
        "        finally:",
        "            _exchange(_before)",
        "    except OverflowError:",  # an integer that needs more bits than this form has: converted before the launch
        f"        {again}",
    ]
    return "\n".join(lines) + "\n", namespace
