"""Launchers with a fault, and ones that are different and right."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from hardpoint.backend import Backend
from hardpoint.conformance.mutant import LegalVariant, Mutant
from hardpoint.conformance.mutants._launch import (
    Arguments,
    Plain,
    aside,
    default_stream,
    left_current,
    mapped,
    start,
)
from hardpoint.conformance.mutants._proxy import Changed
from hardpoint.errors import CaptureRefused, LaunchRefused
from hardpoint.launcher.arguments import device_of, kernel_name, named_arguments, tensors_of
from hardpoint.launcher.protocol import BoundKernel, LaunchPlan
from hardpoint.launcher.python_kernel import facts_of
from hardpoint.launcher.python_launcher import _Call
from hardpoint.launcher.specialisation import Specialisation


def _mutant(name: str, law: str, statement: str, launcher: Callable[[Backend], Any]) -> Mutant:
    return Mutant(
        f"launcher.{name}",
        f"launcher.{law}",
        "launcher",
        statement,
        lambda backend: replace(backend, launcher=launcher(backend)),
    )


# -- what a launch computes --------------------------------------------------------------------------------------------


class _RunsTwice(Plain):
    def run(self, call: _Call, args: tuple[Any, ...], kwargs: Arguments) -> None:
        super().run(call, args, kwargs)
        super().run(call, args, kwargs)


runs_twice = _mutant(
    "runs-twice",
    "launch-computes",
    "Every launch runs its kernel twice, as a careless retry or timing does.",
    _RunsTwice,
)


class _FirstLaunchOnlyLoads(Plain):
    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        call = self._check(kernel, args, kwargs)
        cold = call not in self._loaded
        with self._device.use(call.device):
            self._load(call)
            if not cold:
                self.run(call, args, kwargs)


first_launch_only_loads = _mutant(
    "first-launch-only-loads",
    "launch-computes",
    "The first launch of a form compiles and loads it, and runs nothing.",
    _FirstLaunchOnlyLoads,
)


class _LeavesTheTail(Plain):
    def run(self, call: _Call, args: tuple[Any, ...], kwargs: Arguments) -> None:
        def blocks(tensor: torch.Tensor) -> torch.Tensor:
            return tensor[..., : tensor.shape[-1] // 4 * 4] if tensor.shape[-1] > 4 else tensor

        super().run(call, mapped(args, blocks), mapped(kwargs, blocks))


leaves_the_tail = _mutant(
    "leaves-the-tail",
    "launch-computes",
    "The grid is rounded down: elements beyond the last full block of four are left.",
    _LeavesTheTail,
)


class _CopiesViews(Plain):
    def run(self, call: _Call, args: tuple[Any, ...], kwargs: Arguments) -> None:
        super().run(call, mapped(args, torch.Tensor.contiguous), mapped(kwargs, torch.Tensor.contiguous))


copies_views = _mutant(
    "copies-views",
    "launch-computes",
    "A view with gaps is made contiguous for the kernel, and the result goes into the copy.",
    _CopiesViews,
)


class _PreloadMarksDone(Plain):
    def preload(self, kernel: Any, *args: Any, devices: Sequence[int] | None = None, **kwargs: Any) -> None:
        super().preload(kernel, *args, devices=devices, **kwargs)
        self.skipped = {*getattr(self, "skipped", ()), kernel}

    def run(self, call: _Call, args: tuple[Any, ...], kwargs: Arguments) -> None:
        if call.kernel not in getattr(self, "skipped", ()):
            super().run(call, args, kwargs)


preload_marks_done = _mutant(
    "preload-marks-done",
    "launch-computes",
    "A kernel that was preloaded counts as launched already.",
    _PreloadMarksDone,
)


# -- where a launch runs -----------------------------------------------------------------------------------------------


def _on_current_device(backend: Backend) -> Plain:
    launcher = Plain(backend)
    launcher._device = Changed(backend.device, use=lambda index: contextlib.nullcontext())
    return launcher


on_current_device = _mutant(
    "on-current-device",
    "device-from-tensors",
    "A launch runs on the thread's current device, wherever its tensors are: the first field report.",
    _on_current_device,
)


def _always_on_first_device(backend: Backend) -> Plain:
    launcher = Plain(backend)
    launcher._device = Changed(backend.device, use=lambda index: backend.device.use(0))
    return launcher


always_on_first_device = _mutant(
    "always-on-first-device", "device-from-tensors", "Every launch runs on device 0.", _always_on_first_device
)


class _LooksAtPositions(Plain):
    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        call = self._check(kernel, args, kwargs)
        place = call.device if any(isinstance(value, torch.Tensor) for value in args) else self.backend.device.current()
        with self._device.use(place):
            self._load(replace(call, device=place))
            self.run(call, args, kwargs)


looks_at_positions = _mutant(
    "looks-at-positional-tensors-only",
    "device-from-tensors",
    "The device is taken from tensors given by position; for tensors given by name it is the thread's.",
    _LooksAtPositions,
)


class _LooksAtTopLevel(Plain):
    def place(self, name: str, arguments: Arguments) -> int:
        index = super().place(name, arguments)
        direct = any(isinstance(value, torch.Tensor) for value in arguments.values())
        return index if direct else self.backend.device.current()


looks_at_top_level = _mutant(
    "looks-past-lists",
    "device-from-tensors",
    "Where all tensors are in lists, the launch runs on the thread's current device.",
    _LooksAtTopLevel,
)


def _in_main_thread_only(backend: Backend) -> Plain:
    def use(index: int) -> Any:
        helper = threading.current_thread().name.endswith("helper")
        return contextlib.nullcontext() if helper else backend.device.use(index)

    launcher = Plain(backend)
    launcher._device = Changed(backend.device, use=use)
    return launcher


in_main_thread_only = _mutant(
    "sets-device-in-one-thread-only",
    "device-from-tensors",
    "The device of the tensors is made current in the main thread; a worker thread launches on its own current device.",
    _in_main_thread_only,
)


class _BoundOnCurrentDevice(Plain):
    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> BoundKernel:
        bound = super().bind(kernel, *args, **kwargs)
        call = self._check(kernel, args, kwargs)

        def direct(*args: Any, **kwargs: Any) -> None:
            if self._check(kernel, args, kwargs) == call:
                self.run(call, args, kwargs)
            else:
                bound(*args, **kwargs)

        return direct


bound_on_current_device = _mutant(
    "bound-call-on-current-device",
    "device-from-tensors",
    "Launches find the device of their tensors; bound calls, the quick way, run on the thread's current one.",
    _BoundOnCurrentDevice,
)


class _LeavesDevice(Plain):
    """Leaves the device of a launch current, always or where it failed."""

    def __init__(self, backend: Backend, when: Callable[[bool], bool]) -> None:
        super().__init__(backend)
        kept: list[Any] = []
        self._device = Changed(backend.device, use=lambda index: left_current(backend, index, kept, when))


leaves_device = _mutant(
    "leaves-device",
    "current-device-is-restored",
    "A launch sets the current device and leaves it set.",
    lambda backend: _LeavesDevice(backend, lambda failed: True),
)

leaves_device_after_error = _mutant(
    "leaves-device-after-error",
    "current-device-is-restored",
    "The current device is restored when a launch goes well, and left when it raises.",
    lambda backend: _LeavesDevice(backend, lambda failed: failed),
)


class _LeavesDeviceAfterRefusal(Plain):
    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self._kept: list[Any] = []

    def place(self, name: str, arguments: Arguments) -> int:
        first = next((tensor.device.index or 0 for _, tensor in tensors_of(arguments)), 0)
        with left_current(self.backend, first, self._kept, lambda failed: failed):
            return super().place(name, arguments)


leaves_device_after_refusal = _mutant(
    "leaves-device-after-refusal",
    "current-device-is-restored",
    "The first tensor's device is made current before the checks, and a refusal leaves it so.",
    _LeavesDeviceAfterRefusal,
)


class _PreloadLeavesLast(Plain):
    def preload(self, kernel: Any, *args: Any, devices: Sequence[int] | None = None, **kwargs: Any) -> None:
        super().preload(kernel, *args, devices=devices, **kwargs)
        for index in devices or ():
            with left_current(self.backend, index, self.__dict__.setdefault("kept", []), lambda failed: True):
                pass


preload_leaves_last = _mutant(
    "preload-leaves-last-device",
    "current-device-is-restored",
    "Preload walks over the devices and leaves the last one current.",
    _PreloadLeavesLast,
)


# -- in which order ----------------------------------------------------------------------------------------------------


class _OnStream(Plain):
    """Runs kernels on the stream that `choose` gives for the device of the launch."""

    def __init__(self, backend: Backend, choose: Callable[[int], Any]) -> None:
        super().__init__(backend)
        self._choose = choose

    def run(self, call: _Call, args: tuple[Any, ...], kwargs: Arguments) -> None:
        with self.backend.device.use_stream(self._choose(call.device)):
            super().run(call, args, kwargs)


on_default_stream = _mutant(
    "on-default-stream",
    "launch-is-in-stream-order",
    "Kernels go to the default stream of the device instead of the caller's current one.",
    lambda backend: _OnStream(backend, lambda index: default_stream(backend, index)),
)

on_own_stream = _mutant(
    "on-own-stream",
    "launch-is-in-stream-order",
    "Kernels go to a stream of the launcher's own, which waits for nobody.",
    lambda backend: _OnStream(backend, backend.device.stream),
)


class _OrderedOnCurrentDeviceOnly(Plain):
    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        call, current = self._check(kernel, args, kwargs), self.backend.device.current()
        if call.device == current:
            super().launch(kernel, *args, **kwargs)
            return
        with self.backend.device.use_stream(default_stream(self.backend, call.device)):
            super().launch(kernel, *args, **kwargs)


switching_resets_stream = _mutant(
    "switching-device-resets-stream",
    "launch-is-in-stream-order",
    "Where the launch has to change the device, it uses that device's default stream and not the thread's current one.",
    _OrderedOnCurrentDeviceOnly,
)


class _BoundKeepsStream(Plain):
    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> BoundKernel:
        bound = super().bind(kernel, *args, **kwargs)
        stream = self.backend.device.current_stream(self._check(kernel, args, kwargs).device)

        def on_stream(*args: Any, **kwargs: Any) -> None:
            with self.backend.device.use_stream(stream):
                bound(*args, **kwargs)

        return on_stream


bound_keeps_stream = _mutant(
    "bound-call-keeps-stream",
    "launch-is-in-stream-order",
    "A bound call runs on the stream that was current when it was bound.",
    _BoundKeepsStream,
)


# -- what is refused ---------------------------------------------------------------------------------------------------


class _CopiesHostTensors(Plain):
    """Moves host tensors to the device of the others, or to the current one."""

    def _moved(self, args: tuple[Any, ...], kwargs: Arguments) -> tuple[tuple[Any, ...], Arguments]:
        type, current = self.backend.device.type, self.backend.device.current()
        found = [tensor for _, tensor in tensors_of({"args": args, "kwargs": kwargs}) if tensor.device.type == type]
        place = found[0].device if found else self.backend.device.torch_device(current)

        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor if tensor.device.type == type else tensor.to(place)

        return mapped(args, move), mapped(kwargs, move)

    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        args, kwargs = self._moved(args, kwargs)
        super().launch(kernel, *args, **kwargs)


copies_host_tensors = _mutant(
    "copies-host-tensors",
    "refuses-tensors-off-the-device",
    "A host tensor is copied to the device without a word, at every launch, and what is written to it is lost.",
    _CopiesHostTensors,
)


class _RefusesAfterRunning(_CopiesHostTensors):
    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        super().launch(kernel, *args, **kwargs)
        self._check(kernel, args, kwargs)


refuses_after_running = _mutant(
    "refuses-after-running",
    "refuses-tensors-off-the-device",
    "The refusal comes when the kernel has run already.",
    _RefusesAfterRunning,
)


class _ChecksFirstTensor(Plain):
    def place(self, name: str, arguments: Arguments) -> int:
        for label, tensor in tensors_of(arguments):
            return device_of(name, {label: tensor}, self._device.type)
        return super().place(name, arguments)


checks_first_tensor = _mutant(
    "checks-first-tensor-only",
    "refuses-tensors-off-the-device",
    "Only the first tensor's device is looked at.",
    _ChecksFirstTensor,
)


class _ChecksNoLists(Plain):
    def place(self, name: str, arguments: Arguments) -> int:
        direct = {label: value for label, value in arguments.items() if isinstance(value, torch.Tensor)}
        return device_of(name, direct or arguments, self._device.type)


checks_no_lists = _mutant(
    "checks-no-lists",
    "refuses-tensors-off-the-device",
    "Tensors inside lists are not looked at.",
    _ChecksNoLists,
)


class _RefusesWithoutNames(Plain):
    def place(self, name: str, arguments: Arguments) -> int:
        try:
            return super().place(name, arguments)
        except LaunchRefused:
            raise LaunchRefused("invalid argument") from None


refuses_without_names = _mutant(
    "refuses-without-names",
    "refuses-tensors-off-the-device",
    "A refusal does not say which argument or kernel it is about.",
    _RefusesWithoutNames,
)


class _BoundTrusts(Plain):
    """A bound call checks nothing."""

    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> BoundKernel:
        super().bind(kernel, *args, **kwargs)
        call = self._check(kernel, args, kwargs)

        def direct(*args: Any, **kwargs: Any) -> None:
            with self._device.use(call.device):
                self.run(call, args, kwargs)

        return direct


bound_trusts = _mutant(
    "bound-call-checks-nothing",
    "refuses-tensors-off-the-device",
    "A bound call takes the device of its arguments on trust.",
    _BoundTrusts,
)


class _ExplainKnowsNoRefusals(Plain):
    def explain(self, kernel: Any, *args: Any, **kwargs: Any) -> LaunchPlan:
        return replace(super().explain(kernel, *args, **kwargs), refusal=None)


explain_knows_no_refusals = _mutant(
    "explain-knows-no-refusals",
    "refuses-tensors-off-the-device",
    "Explain says that a launch would go ahead which is refused.",
    _ExplainKnowsNoRefusals,
)


class _GathersDevices(Plain):
    """Copies everything to the first tensor's device."""

    def _gathered(self, args: tuple[Any, ...], kwargs: Arguments) -> tuple[tuple[Any, ...], Arguments]:
        first = next((tensor.device for _, tensor in tensors_of({"args": args, "kwargs": kwargs})), None)
        return mapped(args, lambda tensor: tensor.to(first)), mapped(kwargs, lambda tensor: tensor.to(first))

    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        args, kwargs = self._gathered(args, kwargs)
        super().launch(kernel, *args, **kwargs)


gathers_devices = _mutant(
    "gathers-devices",
    "refuses-two-devices",
    "Tensors of another device are copied to the first tensor's device without a word.",
    _GathersDevices,
)


class _ComparesTypes(Plain):
    def place(self, name: str, arguments: Arguments) -> int:
        found = [*tensors_of(arguments)]
        for label, tensor in found:
            device_of(name, {label: tensor}, self._device.type)
        return super().place(name, dict(found[:1]))


compares_types = _mutant(
    "compares-device-types-only",
    "refuses-two-devices",
    "Devices are compared by type, so that two devices of one type count as one.",
    _ComparesTypes,
)


class _BindTakesTwoDevices(_ComparesTypes):
    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        device_of(kernel_name(kernel), named_arguments(kernel, args, kwargs), self._device.type)
        super().launch(kernel, *args, **kwargs)


bind_takes_two_devices = _mutant(
    "bind-takes-two-devices",
    "refuses-two-devices",
    "Launch refuses tensors on two devices; bind and preload take them.",
    _BindTakesTwoDevices,
)


class _NoTensorMeansCurrent(Plain):
    def place(self, name: str, arguments: Arguments) -> int:
        if not any(tensors_of(arguments)):
            return self.backend.device.current()
        return super().place(name, arguments)


no_tensor_means_current = _mutant(
    "no-tensor-means-current-device",
    "refuses-what-has-no-device",
    "A launch without a tensor runs on the thread's current device.",
    _NoTensorMeansCurrent,
)


class _DropsExtraArguments(Plain):
    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        taken = args[: kernel.__code__.co_argcount] if hasattr(kernel, "__code__") else args
        super().launch(kernel, *taken, **kwargs)


drops_extra_arguments = _mutant(
    "drops-extra-arguments",
    "refuses-what-has-no-device",
    "Arguments that the kernel does not take are dropped.",
    _DropsExtraArguments,
)


class _TypeErrors(Plain):
    def _check(self, kernel: Any, args: tuple[Any, ...], kwargs: Arguments) -> _Call:
        try:
            return super()._check(kernel, args, kwargs)
        except LaunchRefused as refusal:
            if isinstance(refusal.__cause__, TypeError):
                raise refusal.__cause__ from None
            raise


raises_type_errors = _mutant(
    "raises-type-errors",
    "refuses-what-has-no-device",
    "Arguments that do not fit raise Python's TypeError, which is not a refusal and names no kernel.",
    _TypeErrors,
)


class _ChecksNoDtypes(Plain):
    def dtypes(self, kernel: Any, arguments: Arguments) -> None:
        return


checks_no_dtypes = _mutant(
    "checks-no-dtypes",
    "refuses-wrong-dtypes",
    "The dtypes that a kernel declares are not looked at.",
    _ChecksNoDtypes,
)


class _Casts(_ChecksNoDtypes):
    def run(self, call: _Call, args: tuple[Any, ...], kwargs: Arguments) -> None:
        declared = facts_of(call.kernel).dtypes

        def cast(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.float() if declared and tensor.dtype != torch.float32 else tensor

        super().run(call, mapped(args, cast), mapped(kwargs, cast))


casts = _mutant(
    "casts-wrong-dtypes",
    "refuses-wrong-dtypes",
    "A tensor of a dtype that the kernel does not take is converted without a word.",
    _Casts,
)


class _BindChecksNoDtypes(_ChecksNoDtypes):
    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        super().dtypes(kernel, {})
        Plain.dtypes(self, kernel, named_arguments(kernel, args, kwargs))
        super().launch(kernel, *args, **kwargs)


bind_checks_no_dtypes = _mutant(
    "bind-checks-no-dtypes",
    "refuses-wrong-dtypes",
    "Launch refuses dtypes that the kernel does not take; bind, preload and explain take them.",
    _BindChecksNoDtypes,
)


# -- what is loaded ----------------------------------------------------------------------------------------------------


class _ExplainLaunches(Plain):
    def explain(self, kernel: Any, *args: Any, **kwargs: Any) -> LaunchPlan:
        plan = super().explain(kernel, *args, **kwargs)
        if plan.refusal is None:
            with contextlib.suppress(CaptureRefused):
                call = self._check(kernel, args, kwargs)
                with self._device.use(call.device):
                    self.run(call, args, kwargs)
        return plan


explain_launches = _mutant(
    "explain-launches", "explain-runs-nothing", "Explain finds out by launching the kernel.", _ExplainLaunches
)


class _ExplainLoads(Plain):
    def explain(self, kernel: Any, *args: Any, **kwargs: Any) -> LaunchPlan:
        plan = super().explain(kernel, *args, **kwargs)
        if plan.refusal is None:
            self._load(self._check(kernel, args, kwargs))
        return plan


explain_loads = _mutant(
    "explain-loads", "explain-runs-nothing", "Explain compiles and loads the kernel to describe it.", _ExplainLoads
)


class _ExplainNeverLoaded(Plain):
    def explain(self, kernel: Any, *args: Any, **kwargs: Any) -> LaunchPlan:
        return replace(super().explain(kernel, *args, **kwargs), loaded=False)


explain_never_loaded = _mutant(
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


explain_names_current = _mutant(
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


preload_launches = _mutant(
    "preload-launches",
    "preload-loads-without-launching",
    "Preload launches the kernel once to get it loaded: a warm-up on live tensors.",
    _PreloadLaunches,
)


class _PreloadOnOne(Plain):
    def preload(self, kernel: Any, *args: Any, devices: Sequence[int] | None = None, **kwargs: Any) -> None:
        super().preload(kernel, *args, devices=None, **kwargs)


preload_on_one = _mutant(
    "preload-on-one-device",
    "preload-loads-without-launching",
    "Preload loads on the device of the arguments alone, whatever devices were named.",
    _PreloadOnOne,
)


class _PreloadOnCurrent(Plain):
    def preload(self, kernel: Any, *args: Any, devices: Sequence[int] | None = None, **kwargs: Any) -> None:
        named = [self.backend.device.current()] if devices is None else devices
        super().preload(kernel, *args, devices=named, **kwargs)


preload_on_current = _mutant(
    "preload-on-current-device",
    "preload-loads-without-launching",
    "Without named devices preload loads on the thread's current device instead of the arguments'.",
    _PreloadOnCurrent,
)


class _PreloadSkipsMissing(Plain):
    def preload(self, kernel: Any, *args: Any, devices: Sequence[int] | None = None, **kwargs: Any) -> None:
        there = None if devices is None else [index for index in devices if 0 <= index < self.backend.device.count()]
        super().preload(kernel, *args, devices=there, **kwargs)


preload_skips_missing = _mutant(
    "preload-skips-missing-devices",
    "preload-loads-without-launching",
    "Preload passes over devices that do not exist.",
    _PreloadSkipsMissing,
)


class _LoadedForAll(Plain):
    def _load(self, call: _Call) -> None:
        super()._load(call)
        self._loaded |= {replace(call, device=index) for index in range(self.backend.device.count())}


loaded_for_all = _mutant(
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
    return _mutant(
        f"key-{name}", "specialisations-are-loaded-apart", statement, lambda backend: _Keyed(backend, change)
    )


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


freezes_integers = _mutant(
    "freezes-integers",
    "specialisations-are-loaded-apart",
    "A form bakes in the integers of its first launch, and is shared with others of their class.",
    _FreezesIntegers,
)


# -- bound calls -------------------------------------------------------------------------------------------------------


class _BoundKeepsTensors(Plain):
    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> BoundKernel:
        bound = super().bind(kernel, *args, **kwargs)
        return lambda *_, **__: bound(*args, **kwargs)


bound_keeps_tensors = _mutant(
    "bound-call-keeps-tensors",
    "bound-calls-fit-or-refuse",
    "A bound call works on the tensors that it was bound with, whatever it is called with.",
    _BoundKeepsTensors,
)


class _BoundKeepsNumbers(Plain):
    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> BoundKernel:
        bound = super().bind(kernel, *args, **kwargs)

        def stale(*now: Any, **named: Any) -> None:
            bound(*(old if isinstance(old, float) else new for old, new in zip(args, now, strict=False)), **named)

        return stale


bound_keeps_numbers = _mutant(
    "bound-call-keeps-numbers",
    "bound-calls-fit-or-refuse",
    "A bound call takes new tensors and goes on with the numbers that it was bound with.",
    _BoundKeepsNumbers,
)


class _BoundReinterprets(Plain):
    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> BoundKernel:
        super().bind(kernel, *args, **kwargs)
        call = self._check(kernel, args, kwargs)
        dtypes = {tensor.dtype for _, tensor in tensors_of(named_arguments(kernel, args, kwargs))}

        def direct(*args: Any, **kwargs: Any) -> None:
            found = self._check(kernel, args, kwargs)
            with self._device.use(found.device):
                one = next(iter(dtypes))
                self.run(call, mapped(args, lambda t: t.view(one)), mapped(kwargs, lambda t: t.view(one)))

        return direct


bound_reinterprets = _mutant(
    "bound-call-reinterprets",
    "bound-calls-fit-or-refuse",
    "A bound call reads memory of another dtype as the one that it was bound for.",
    _BoundReinterprets,
)


class _BoundIgnoresNames(Plain):
    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> BoundKernel:
        bound = super().bind(kernel, *args, **kwargs)
        return lambda *args, **kwargs: bound(*args, *kwargs.values())


bound_ignores_names = _mutant(
    "bound-call-ignores-names",
    "bound-calls-fit-or-refuse",
    "A bound call takes arguments given by name in the order in which they were written.",
    _BoundIgnoresNames,
)


class _BindLaunches(Plain):
    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> BoundKernel:
        bound = super().bind(kernel, *args, **kwargs)
        bound(*args, **kwargs)
        return bound


bind_launches = _mutant(
    "bind-launches", "bound-calls-fit-or-refuse", "Bind launches the kernel once to get it compiled.", _BindLaunches
)


# -- errors ------------------------------------------------------------------------------------------------------------


class _LosesErrors(Plain):
    def run(self, call: _Call, args: tuple[Any, ...], kwargs: Arguments) -> None:
        with contextlib.suppress(ArithmeticError):
            super().run(call, args, kwargs)


loses_errors = _mutant(
    "loses-errors",
    "kernel-errors-are-raised",
    "An error in a kernel is dropped, and the launch counts as done.",
    _LosesErrors,
)


class _LosesWords(Plain):
    def run(self, call: _Call, args: tuple[Any, ...], kwargs: Arguments) -> None:
        try:
            super().run(call, args, kwargs)
        except ArithmeticError:
            raise RuntimeError("unspecified launch failure") from None


loses_words = _mutant(
    "loses-words",
    "kernel-errors-are-raised",
    "An error in a kernel is raised without what it said.",
    _LosesWords,
)


# -- captures ----------------------------------------------------------------------------------------------------------


class _LoadsInCapture(Plain):
    def _load(self, call: _Call) -> None:
        self._loaded.add(call)


loads_in_capture = _mutant(
    "loads-in-capture",
    "cold-launch-in-capture-is-refused",
    "A cold kernel is loaded inside a capture: the second field report, on a driver that does not object.",
    _LoadsInCapture,
)


class _ExplainForgetsCaptures(Plain):
    def explain(self, kernel: Any, *args: Any, **kwargs: Any) -> LaunchPlan:
        plan = super().explain(kernel, *args, **kwargs)
        return replace(plan, refusal=None) if plan.specialisation else plan


explain_forgets_captures = _mutant(
    "explain-forgets-captures",
    "cold-launch-in-capture-is-refused",
    "Explain does not say that a cold launch is refused in the capture that is under way.",
    _ExplainForgetsCaptures,
)


class _SkipsInCapture(Plain):
    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        call = self._check(kernel, args, kwargs)
        with self._device.use(call.device):
            if self._cold_in_capture(call) is not None:
                return
        super().launch(kernel, *args, **kwargs)


skips_in_capture = _mutant(
    "skips-cold-kernels-in-capture",
    "cold-launch-in-capture-is-refused",
    "A cold launch inside a capture returns early, and the graph lacks the kernel: the fix that was proposed upstream.",
    _SkipsInCapture,
)


class _ColdByKernel(Plain):
    """`same` says whether a loaded form makes up for the one that is needed."""

    def __init__(self, backend: Backend, same: Callable[[_Call, _Call], bool]) -> None:
        super().__init__(backend)
        self._same = same

    def _cold_in_capture(self, call: _Call) -> str | None:
        if any(loaded.kernel is call.kernel and self._same(loaded, call) for loaded in self._loaded):
            return None
        return super()._cold_in_capture(call)


warm_elsewhere = _mutant(
    "warm-on-another-device-will-do",
    "cold-launch-in-capture-is-refused",
    "In a capture a kernel counts as loaded if it is loaded on any device.",
    lambda backend: _ColdByKernel(backend, lambda loaded, call: loaded.specialisation == call.specialisation),
)

warm_in_another_form = _mutant(
    "warm-in-another-form-will-do",
    "cold-launch-in-capture-is-refused",
    "In a capture a kernel counts as loaded if any form of it is loaded on that device.",
    lambda backend: _ColdByKernel(backend, lambda loaded, call: loaded.device == call.device),
)


class _BindLoadsInCapture(Plain):
    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> BoundKernel:
        call = self._check(kernel, args, kwargs)
        self._loaded.add(call)
        return super().bind(kernel, *args, **kwargs)


bind_loads_in_capture = _mutant(
    "bind-loads-in-capture",
    "cold-launch-in-capture-is-refused",
    "Launch refuses a cold kernel in a capture; bind loads it.",
    _BindLoadsInCapture,
)


class _NoWayOut(Plain):
    def _cold_in_capture(self, call: _Call) -> str | None:
        return super()._cold_in_capture(call) and "operation not permitted when stream is capturing"


no_way_out = _mutant(
    "cold-launch-says-what-the-driver-says",
    "cold-launch-in-capture-is-refused",
    "A cold launch in a capture fails with the driver's words, which name neither the kernel nor what to do.",
    _NoWayOut,
)


class _RunsAsideInCapture(Plain):
    """In a capture kernels run at once, beside it; `also_recorded`: and are recorded."""

    def __init__(self, backend: Backend, also_recorded: bool) -> None:
        super().__init__(backend)
        self._recorded = also_recorded

    def run(self, call: _Call, args: tuple[Any, ...], kwargs: Arguments) -> None:
        if self._capturing():
            aside(self.backend, call.device, lambda: start(self.backend, call.kernel, args, kwargs))
            if not self._recorded:
                return
        super().run(call, args, kwargs)


runs_in_capture = _mutant(
    "runs-instead-of-being-recorded",
    "launch-in-capture-is-recorded",
    "Inside a capture a kernel runs at once and is not in the graph.",
    lambda backend: _RunsAsideInCapture(backend, also_recorded=False),
)

runs_and_records = _mutant(
    "runs-and-is-recorded",
    "launch-in-capture-is-recorded",
    "Inside a capture a kernel is recorded and runs at once as well.",
    lambda backend: _RunsAsideInCapture(backend, also_recorded=True),
)


class _RecordsOnce(Plain):
    """A second launch of the same call in one capture is taken for a repetition."""

    def run(self, call: _Call, args: tuple[Any, ...], kwargs: Arguments) -> None:
        seen = self.__dict__.setdefault("seen", [])
        if not self._capturing():
            seen.clear()
        elif call in seen:
            return
        else:
            seen.append(call)
        super().run(call, args, kwargs)


records_once = _mutant(
    "records-a-kernel-once",
    "launch-in-capture-is-recorded",
    "A kernel that is launched twice in a capture is in the graph once.",
    _RecordsOnce,
)


class _BoundSkippedInCapture(Plain):
    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> BoundKernel:
        bound = super().bind(kernel, *args, **kwargs)

        def unless_capturing(*args: Any, **kwargs: Any) -> None:
            if not self._capturing():
                bound(*args, **kwargs)

        return unless_capturing


bound_skipped_in_capture = _mutant(
    "bound-calls-are-not-recorded",
    "launch-in-capture-is-recorded",
    "A bound call inside a capture does nothing.",
    _BoundSkippedInCapture,
)


class _RecordsCopies(Plain):
    def run(self, call: _Call, args: tuple[Any, ...], kwargs: Arguments) -> None:
        if self._capturing():
            kept = self.__dict__.setdefault("kept", [])
            copies = aside(self.backend, call.device, lambda: mapped(args[1:], torch.Tensor.clone))
            kept.append(copies)
            args = (args[0], *copies)
        super().run(call, args, kwargs)


records_copies = _mutant(
    "records-copies-of-inputs",
    "launch-in-capture-is-recorded",
    "A kernel is recorded with copies of its inputs, and a replay reads what they held during the capture.",
    _RecordsCopies,
)


# -- different and right -----------------------------------------------------------------------------------------------

plain = LegalVariant(
    "launcher.each-operation-is-queued",
    "launcher",
    "A kernel is not one item of the stream but a row of them, and its errors are raised at once.",
    lambda backend: replace(backend, launcher=Plain(backend)),
    parts=("launcher", "graphs"),
)


class _Waits(Plain):
    def run(self, call: _Call, args: tuple[Any, ...], kwargs: Arguments) -> None:
        super().run(call, args, kwargs)
        if not self._capturing():
            self.backend.device.synchronize(call.device)


waits = LegalVariant(
    "launcher.waits-after-launch",
    "launcher",
    "Every launch outside a capture waits for its device: eager execution is legal.",
    lambda backend: replace(backend, launcher=_Waits(backend)),
)


class _BindsEachLaunch(Plain):
    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        self._through_bind(kernel, args, kwargs)

    def _through_bind(self, kernel: Any, args: tuple[Any, ...], kwargs: Arguments) -> None:
        call = self._check(kernel, args, kwargs)
        self.bind(kernel, *args, **kwargs)
        with self._device.use(call.device):
            self.run(call, args, kwargs)


binds_each_launch = LegalVariant(
    "launcher.binds-each-launch",
    "launcher",
    "Every launch binds anew: slow, and right.",
    lambda backend: replace(backend, launcher=_BindsEachLaunch(backend)),
)


class _BoundTakesAnything(Plain):
    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> BoundKernel:
        super().bind(kernel, *args, **kwargs)
        return lambda *args, **kwargs: self.launch(kernel, *args, **kwargs)


bound_takes_anything = LegalVariant(
    "launcher.bound-call-binds-anew",
    "launcher",
    "A bound call whose arguments are of another kind launches the form that fits instead of refusing.",
    lambda backend: replace(backend, launcher=_BoundTakesAnything(backend)),
)


class _FromAnotherThread(Plain):
    def run(self, call: _Call, args: tuple[Any, ...], kwargs: Arguments) -> None:
        if self._capturing():
            super().run(call, args, kwargs)
            return
        stream = self.backend.device.current_stream(call.device)

        def on_the_callers_stream() -> None:
            with self.backend.device.use_stream(stream):
                start(self.backend, call.kernel, args, kwargs)

        aside(self.backend, call.device, on_the_callers_stream, wait=False)


from_another_thread = LegalVariant(
    "launcher.launches-from-another-thread",
    "launcher",
    "Kernels are started by a worker thread, on the caller's stream and under the tensors' device.",
    lambda backend: replace(backend, launcher=_FromAnotherThread(backend)),
)


@contextlib.contextmanager
def _thrice(backend: Backend, index: int) -> Iterator[None]:
    with backend.device.use(index), backend.device.use(0), backend.device.use(index):
        yield


def _switches_often(backend: Backend) -> Plain:
    launcher = Plain(backend)
    launcher._device = Changed(backend.device, use=lambda index: _thrice(backend, index))
    return launcher


switches_often = LegalVariant(
    "launcher.switches-devices-often",
    "launcher",
    "A launch passes through another device on its way to the tensors', and restores the caller's in the end.",
    lambda backend: replace(backend, launcher=_switches_often(backend)),
)
