"""Faults in what is loaded, and in what `explain` says of it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from hardpoint.backend import Backend
from hardpoint.conformance.mutant import Mutant
from hardpoint.conformance.mutants._launch import (
    Arguments,
    Plain,
)
from hardpoint.conformance.mutants.launcher._plant import plant
from hardpoint.errors import CaptureRefused
from hardpoint.launcher.protocol import LaunchPlan
from hardpoint.launcher.python_launcher import _Call
from hardpoint.launcher.specialisation import Specialisation


class _ExplainLaunches(Plain):
    def explain(self, kernel: Any, *args: Any, **kwargs: Any) -> LaunchPlan:
        plan = super().explain(kernel, *args, **kwargs)
        if plan.refusal is None:
            with contextlib.suppress(CaptureRefused):
                call = self._check(kernel, args, kwargs)
                with self._device.use(call.device):
                    self.run(call, args, kwargs)
        return plan


explain_launches = plant(
    "explain-launches", "explain-runs-nothing", "Explain finds out by launching the kernel.", _ExplainLaunches
)


class _ExplainLoads(Plain):
    def explain(self, kernel: Any, *args: Any, **kwargs: Any) -> LaunchPlan:
        plan = super().explain(kernel, *args, **kwargs)
        if plan.refusal is None:
            self._load(self._check(kernel, args, kwargs))
        return plan


explain_loads = plant(
    "explain-loads", "explain-runs-nothing", "Explain compiles and loads the kernel to describe it.", _ExplainLoads
)


class _ExplainNeverLoaded(Plain):
    def explain(self, kernel: Any, *args: Any, **kwargs: Any) -> LaunchPlan:
        return replace(super().explain(kernel, *args, **kwargs), loaded=False)


explain_never_loaded = plant(
    "explain-never-loaded",
    "explain-runs-nothing",
    "Explain says 'not loaded' for what is loaded.",
    _ExplainNeverLoaded,
)


class _ExplainNamesCurrent(Plain):
    def explain(self, kernel: Any, *args: Any, **kwargs: Any) -> LaunchPlan:
        plan = super().explain(kernel, *args, **kwargs)
        current = f"{self._device.type}:{self.backend.device.current()}"
        return plan if plan.device is None else replace(plan, device=current)


explain_names_current = plant(
    "explain-names-current-device",
    "explain-runs-nothing",
    "Explain names the thread's current device instead of the one that the launch would run on.",
    _ExplainNamesCurrent,
)


class _PreloadLaunches(Plain):
    def preload(self, kernel: Any, *args: Any, devices: Sequence[int] | None = None, **kwargs: Any) -> None:
        super().preload(kernel, *args, devices=devices, **kwargs)
        call = self._check(kernel, args, kwargs)
        with self._device.use(call.device):
            self.run(call, args, kwargs)


preload_launches = plant(
    "preload-launches",
    "preload-loads-without-launching",
    "Preload launches the kernel once to get it loaded: a warm-up on live tensors.",
    _PreloadLaunches,
)


class _PreloadOnOne(Plain):
    def preload(self, kernel: Any, *args: Any, devices: Sequence[int] | None = None, **kwargs: Any) -> None:
        super().preload(kernel, *args, devices=None, **kwargs)


preload_on_one = plant(
    "preload-on-one-device",
    "preload-loads-without-launching",
    "Preload loads on the device of the arguments alone, whatever devices were named.",
    _PreloadOnOne,
)


class _PreloadOnCurrent(Plain):
    def preload(self, kernel: Any, *args: Any, devices: Sequence[int] | None = None, **kwargs: Any) -> None:
        named = [self.backend.device.current()] if devices is None else devices
        super().preload(kernel, *args, devices=named, **kwargs)


preload_on_current = plant(
    "preload-on-current-device",
    "preload-loads-without-launching",
    "Without named devices preload loads on the thread's current device instead of the arguments'.",
    _PreloadOnCurrent,
)


class _PreloadSkipsMissing(Plain):
    def preload(self, kernel: Any, *args: Any, devices: Sequence[int] | None = None, **kwargs: Any) -> None:
        there = None if devices is None else [index for index in devices if 0 <= index < self.backend.device.count()]
        super().preload(kernel, *args, devices=there, **kwargs)


preload_skips_missing = plant(
    "preload-skips-missing-devices",
    "preload-loads-without-launching",
    "Preload passes over devices that do not exist.",
    _PreloadSkipsMissing,
)


class _LoadedForAll(Plain):
    def _load(self, call: _Call) -> None:
        super()._load(call)
        self._loaded |= {replace(call, device=index) for index in range(self.backend.device.count())}


loaded_for_all = plant(
    "loaded-once-for-all-devices",
    "preload-loads-without-launching",
    "A kernel that is loaded on one device counts as loaded on all: one handle for the process.",
    _LoadedForAll,
)


class _Keyed(Plain):
    """Changes the classes of arguments in the key."""

    def __init__(self, backend: Backend, change: Callable[[str, Any], str]) -> None:
        super().__init__(backend)
        self._change = change

    def key(self, kernel: Any, arguments: Arguments) -> Specialisation:
        right = super().key(kernel, arguments)
        kinds = tuple((name, self._change(kind, arguments[name])) for name, kind in right.arguments)
        return replace(right, arguments=kinds)


def _key(name: str, statement: str, change: Callable[[str, Any], str]) -> Mutant:
    return plant(f"key-{name}", "specialisations-are-loaded-apart", statement, lambda backend: _Keyed(backend, change))


keys = (
    _key(
        "ignores-dtype",
        "The key of a compiled form leaves out the dtypes of pointers.",
        lambda kind, value: re.sub(r"^\*\w+", "*", kind),
    ),
    _key(
        "ignores-none",
        "The key does not tell an argument that is None from one that is given.",
        lambda kind, value: "*float32:16" if kind == "none" else kind,
    ),
    _key(
        "ignores-integers",
        "The key does not tell the integer 1 and multiples of 16 from other integers.",
        lambda kind, value: "i32" if kind in ("1", "i32:16") else kind,
    ),
    _key(
        "ignores-width",
        "The key does not tell integers that need 64 bits from those that fit into 32.",
        lambda kind, value: kind.replace("i64", "i32"),
    ),
    _key(
        "ignores-alignment",
        "The key does not tell an unaligned pointer from an aligned one.",
        lambda kind, value: kind.removesuffix(":16") if kind.startswith("*") else kind,
    ),
    _key(
        "ignores-constants",
        "The key leaves out the values of compile-time constants.",
        lambda kind, value: "constant" if kind.startswith("=") else kind,
    ),
    _key(
        "holds-every-integer",
        "The key holds integers by value: every new number is compiled and loaded anew.",
        lambda kind, value: str(value) if type(value) is int else kind,
    ),
)


class _FreezesIntegers(Plain):
    """A form computes with the integers of its first launch."""

    def run(self, call: _Call, args: tuple[Any, ...], kwargs: Arguments) -> None:
        first = self.__dict__.setdefault("first", {}).setdefault(call, args)
        frozen = [old if type(old) is int else new for old, new in zip(first, args, strict=False)]
        super().run(call, tuple(frozen), kwargs)


freezes_integers = plant(
    "freezes-integers",
    "specialisations-are-loaded-apart",
    "A form bakes in the integers of its first launch, and is shared with others of their class.",
    _FreezesIntegers,
)
