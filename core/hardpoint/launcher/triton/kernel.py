"""Taking a Triton kernel apart: its JIT function, its heuristics, and the configuration that autotuning chose."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hardpoint.errors import LaunchRefused


@dataclass(frozen=True)
class Layers:
    """A kernel under its decorators, outermost first.

    Attributes:
        jit: the ``triton.runtime.JITFunction``.
        wrappers: ``Autotuner`` and ``Heuristics`` objects around it, outermost first.
        parameters: of the function, in order.
        name: module and qualified name, for messages.
        interpreted: ``TRITON_INTERPRET=1`` was set when it was defined: it runs on the host, in Python.
    """

    jit: Any
    wrappers: tuple[Any, ...]
    parameters: tuple[inspect.Parameter, ...]
    name: str
    interpreted: bool = False


def layers_of(kernel: Any) -> Layers:
    """Take `kernel` apart. Raises LaunchRefused if it is no Triton kernel."""
    wrappers = []
    inner = kernel
    while True:
        if not hasattr(inner, "fn") or not hasattr(inner, "run"):
            raise LaunchRefused(
                f"Expected a Triton kernel (@triton.jit, with @triton.autotune or @triton.heuristics around it), found "
                f"{type(kernel).__name__} {kernel!r}: decorate the function with @triton.jit."
            )
        if not hasattr(inner.fn, "run"):  # a plain function: this is the innermost, on every release
            break
        wrappers.append(inner)
        inner = inner.fn
    name = f"{inner.fn.__module__}.{inner.fn.__qualname__}"
    parameters = tuple(inspect.signature(inner.fn).parameters.values())
    interpreted = type(inner).__name__ == "InterpretedFunction"
    return Layers(inner, tuple(wrappers), parameters, name, interpreted)


def is_autotuner(wrapper: Any) -> bool:
    return hasattr(wrapper, "configs") and hasattr(wrapper, "cache")


def tuning_key(tuner: Any, arguments: Mapping[str, Any]) -> tuple[Any, ...]:
    """The key under which an autotuner keeps its choice (triton/runtime/autotuner.py, `Autotuner.run`).

    Values of the parameters it was told to tune for, then the dtypes of all tensors, in the order of the call.
    """
    given = {name: value for name, value in arguments.items() if name in tuner.arg_names}
    values = [given[name] for name in tuner.keys if name in given]
    return (*values, *(str(value.dtype) for value in given.values() if hasattr(value, "dtype")))


def heuristics_of(wrappers: tuple[Any, ...]) -> dict[str, Callable[[dict[str, Any]], Any]]:
    """Meta-parameter -> the function that @triton.heuristics computes it with, outermost first."""
    found: dict[str, Callable[[dict[str, Any]], Any]] = {}
    for wrapper in wrappers:
        if not is_autotuner(wrapper):
            found |= wrapper.values
    return found


def heuristic_values(wrappers: tuple[Any, ...], arguments: dict[str, Any]) -> dict[str, Any]:
    """Meta-parameters computed from the arguments; each function sees the ones before it."""
    computed: dict[str, Any] = {}
    for name, function in heuristics_of(wrappers).items():
        computed[name] = function({**arguments, **computed})
    return computed


def tuner_of(wrappers: tuple[Any, ...]) -> Any | None:
    """The autotuner that has a choice to make, None if there is none."""
    return next((w for w in wrappers if is_autotuner(w) and len(w.configs) > 1), None)


def tuned_names(layers: Layers) -> set[str]:
    """Parameters that autotuning sets."""
    own = {parameter.name for parameter in layers.parameters}
    tuners = [w for w in layers.wrappers if is_autotuner(w)]
    return {name for tuner in tuners for config in tuner.configs for name in config.all_kwargs() if name in own}


def tuned_values(layers: Layers, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the chosen configurations set: parameters of the kernel, and launch options. The choice has to be made."""
    own = {parameter.name for parameter in layers.parameters}
    parameters: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for wrapper in layers.wrappers:
        if is_autotuner(wrapper):
            single = len(wrapper.configs) == 1
            config = wrapper.configs[0] if single else wrapper.cache[tuning_key(wrapper, arguments)]
            for name, value in config.all_kwargs().items():
                (parameters if name in own else options)[name] = value
    return parameters, options
