"""The arguments of a call by name, and the one device that its tensors are on; refusals as sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hardpoint.errors import LaunchRefused
from hardpoint.launcher.triton.kernel import Layers


class Missing:
    """Stands for an argument that was not given; it is refused by name."""

    def __repr__(self) -> str:
        return "<not given>"


MISSING = Missing()


def given(layers: Layers, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Parameters that the call names, in the kernel's order. LaunchRefused for too many, double or absent ones."""
    names = [parameter.name for parameter in layers.parameters]
    if len(args) > len(names):
        raise LaunchRefused(f"{layers.name} takes {len(names)} arguments, found {len(args)}; nothing was launched.")
    found = dict(zip(names, args, strict=False))
    double = [name for name in kwargs if name in found]
    if double:
        raise LaunchRefused(f"{layers.name} was given {double} both by position and by name; nothing was launched.")
    found |= {name: kwargs[name] for name in names if name in kwargs}
    absent = [name for name, value in found.items() if value is MISSING]
    if absent:
        raise LaunchRefused(f"{layers.name} was called without {absent}; nothing was launched.")
    return found


def options_of(layers: Layers, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments that are Triton's launch options (num_warps ...) and not the kernel's parameters."""
    names = {parameter.name for parameter in layers.parameters}
    return {name: value for name, value in kwargs.items() if name not in names}


def device_of(name: str, arguments: dict[str, Any], device_type: str) -> int:
    """Index of the one device that all tensors are on, also those in tuples and behind tensor descriptors.

    Raises LaunchRefused naming the arguments if there is no tensor, one on another type of device, or two devices.
    """
    places = {label: tensor.device for label, tensor in tensors_of(arguments)}
    if not places:
        raise LaunchRefused(
            f"Expected at least one tensor on {device_type} among the arguments of {name}, found none: the device of a "
            "launch comes from its tensors."
        )
    strange = {key: device for key, device in places.items() if device.type != device_type}
    if strange:
        found = ", ".join(f"{key} on {device}" for key, device in strange.items())
        raise LaunchRefused(
            f"Expected every tensor of {name} on {device_type}, found {found}: move "
            f"{'it' if len(strange) == 1 else 'them'} there first; nothing was launched."
        )
    if len({device.index for device in places.values()}) > 1:
        found = ", ".join(f"{key} on {device}" for key, device in places.items())
        raise LaunchRefused(f"Expected all tensors of {name} on one device, found {found}; nothing was launched.")
    return int(next(iter(places.values())).index or 0)


def tensors_of(arguments: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every tensor with the name of its argument."""
    for name, value in arguments.items():
        yield from _walk(name, value)


def _walk(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if hasattr(value, "data_ptr") and hasattr(value, "device"):
        yield name, value
    elif isinstance(value, (tuple, list)):
        for index, item in enumerate(value):
            yield from _walk(f"{name}[{index}]", item)
    elif hasattr(getattr(value, "base", None), "data_ptr"):  # triton.tools.tensor_descriptor.TensorDescriptor
        yield f"{name}.base", value.base
