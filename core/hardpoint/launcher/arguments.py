"""The arguments of a launch by name, and the one device that all its tensors are on; refusals as sentences."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from hardpoint.errors import LaunchRefused

if TYPE_CHECKING:
    from hardpoint.launcher.python_kernel import KernelFacts


def kernel_name(kernel: Any) -> str:
    """Name of a kernel, for people."""
    return str(getattr(kernel, "__name__", None) or repr(kernel))


def named_arguments(kernel: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments under the kernel's parameter names, in its order. LaunchRefused if the kernel cannot take them."""
    if not callable(kernel):
        raise LaunchRefused(f"expected a Python function as kernel, got {kernel!r}; nothing was launched")
    try:
        bound = inspect.signature(kernel).bind(*args, **kwargs)
    except TypeError as error:
        raise LaunchRefused(
            f"kernel {kernel_name(kernel)} cannot take these arguments: {error}; nothing was launched"
        ) from error
    bound.apply_defaults()
    return dict(bound.arguments)


def tensors_of(arguments: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor with the name of its argument, also inside tuples, lists and dicts."""
    for name, value in arguments.items():
        yield from _walk(name, value)


def _walk(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _walk(f"{name}[{index}]", item)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _walk(f"{name}[{key!r}]", item)


def device_of(name: str, arguments: Mapping[str, Any], device_type: str) -> int:
    """Index of the one device of type `device_type` that all tensors are on.

    LaunchRefused, naming the arguments, if there is no tensor, one elsewhere (a host tensor), or two devices.
    """
    places = [(label, tensor.device) for label, tensor in tensors_of(arguments)]
    if not places:
        raise LaunchRefused(
            f"kernel {name} has no tensor among its arguments, and the device of a launch comes from its tensors; "
            "nothing was launched"
        )
    where = ", ".join(f"{label} on {device}" for label, device in places)
    strange = [label for label, device in places if device.type != device_type]
    if strange:
        what = f"argument{'s' * (len(strange) > 1)} {', '.join(strange)}"
        raise LaunchRefused(
            f"kernel {name}: expected every tensor on {device_type}, but {what} "
            f"{'are' if len(strange) > 1 else 'is'} elsewhere ({where}); copy "
            f"{'them' if len(strange) > 1 else 'it'} to the device first, nothing was launched"
        )
    if len({device.index or 0 for _, device in places}) > 1:
        raise LaunchRefused(
            f"kernel {name}: expected all tensors on one device, found {where}; copy them to one, nothing was launched"
        )
    return places[0][1].index or 0


def refuse_wrong_dtypes(name: str, arguments: Mapping[str, Any], facts: KernelFacts) -> None:
    """LaunchRefused for a tensor of a dtype that the kernel does not declare for that argument."""
    for label, value in arguments.items():
        declared = facts.dtypes.get(label)
        if declared is None or not isinstance(value, torch.Tensor):
            continue
        found = str(value.dtype).removeprefix("torch.")
        if found not in declared:
            raise LaunchRefused(
                f"kernel {name}: argument {label} has dtype {found}, and the kernel takes "
                f"{' or '.join(sorted(declared))}; convert it first, nothing was launched"
            )
