"""Launches that should be refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from hardpoint.conformance.mutants._launch import (
    Arguments,
    Plain,
    mapped,
)
from hardpoint.conformance.mutants.launcher._plant import plant
from hardpoint.errors import LaunchRefused
from hardpoint.launcher.arguments import device_of, kernel_name, named_arguments, tensors_of
from hardpoint.launcher.protocol import BoundKernel, LaunchPlan
from hardpoint.launcher.python_kernel import facts_of
from hardpoint.launcher.python_launcher import _Call


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


copies_host_tensors = plant(
    "copies-host-tensors",
    "refuses-tensors-off-the-device",
    "A host tensor is copied to the device without a word, at every launch, and what is written to it is lost.",
    _CopiesHostTensors,
)


class _RefusesAfterRunning(_CopiesHostTensors):
    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        super().launch(kernel, *args, **kwargs)
        self._check(kernel, args, kwargs)


refuses_after_running = plant(
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


checks_first_tensor = plant(
    "checks-first-tensor-only",
    "refuses-tensors-off-the-device",
    "Only the first tensor's device is looked at.",
    _ChecksFirstTensor,
)


class _ChecksNoLists(Plain):
    def place(self, name: str, arguments: Arguments) -> int:
        direct = {label: value for label, value in arguments.items() if isinstance(value, torch.Tensor)}
        return device_of(name, direct or arguments, self._device.type)


checks_no_lists = plant(
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


refuses_without_names = plant(
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


bound_trusts = plant(
    "bound-call-checks-nothing",
    "refuses-tensors-off-the-device",
    "A bound call takes the device of its arguments on trust.",
    _BoundTrusts,
)


class _ExplainKnowsNoRefusals(Plain):
    def explain(self, kernel: Any, *args: Any, **kwargs: Any) -> LaunchPlan:
        return replace(super().explain(kernel, *args, **kwargs), refusal=None)


explain_knows_no_refusals = plant(
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


gathers_devices = plant(
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


compares_types = plant(
    "compares-device-types-only",
    "refuses-two-devices",
    "Devices are compared by type, so that two devices of one type count as one.",
    _ComparesTypes,
)


class _BindTakesTwoDevices(_ComparesTypes):
    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        device_of(kernel_name(kernel), named_arguments(kernel, args, kwargs), self._device.type)
        super().launch(kernel, *args, **kwargs)


bind_takes_two_devices = plant(
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


no_tensor_means_current = plant(
    "no-tensor-means-current-device",
    "refuses-what-has-no-device",
    "A launch without a tensor runs on the thread's current device.",
    _NoTensorMeansCurrent,
)


class _DropsExtraArguments(Plain):
    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        taken = args[: kernel.__code__.co_argcount] if hasattr(kernel, "__code__") else args
        super().launch(kernel, *taken, **kwargs)


drops_extra_arguments = plant(
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


raises_type_errors = plant(
    "raises-type-errors",
    "refuses-what-has-no-device",
    "Arguments that do not fit raise Python's TypeError, which is not a refusal and names no kernel.",
    _TypeErrors,
)


class _ChecksNoDtypes(Plain):
    def dtypes(self, kernel: Any, arguments: Arguments) -> None:
        return


checks_no_dtypes = plant(
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


casts = plant(
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


bind_checks_no_dtypes = plant(
    "bind-checks-no-dtypes",
    "refuses-wrong-dtypes",
    "Launch refuses dtypes that the kernel does not take; bind, preload and explain take them.",
    _BindChecksNoDtypes,
)
