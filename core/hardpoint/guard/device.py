"""Which device a launch belongs to, found from its arguments at the price of a few hundred nanoseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from hardpoint.errors import LaunchRefused


def first_device(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Index of the first device tensor among the arguments, -1 if there is none.

    Host tensors are passed over: pinned ones are legal in Triton (the driver maps them into the device's addresses).
    """
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            index = value.get_device()
            if index >= 0:
                return index
    for _, value in _tensors([("", value) for value in (*args, *kwargs.values())]):
        index = value.get_device()
        if index >= 0:
            return index
    return -1


def check_all(kernel: str, arguments: Iterable[tuple[str, Any]], device_type: str) -> None:
    """Refuse a launch whose tensors cannot be read from one device.

    Raises LaunchRefused naming the arguments: tensors on two devices, or a host tensor that is not pinned.
    """
    tensors = list(_tensors(arguments))
    devices = {value.device for _, value in tensors if value.device.type == device_type}
    if len(devices) > 1:
        found = ", ".join(f"{name} on {value.device}" for name, value in tensors)
        raise LaunchRefused(f"Expected all tensors of {kernel} on one device, found {found}; nothing was launched.")
    for name, value in tensors:
        if value.device.type == "cpu" and value.numel() and not value.is_pinned():
            raise LaunchRefused(
                f"Expected every tensor of {kernel} on {device_type}, found {name} on the host and not pinned: move it "
                "there first; nothing was launched."
            )


def _tensors(arguments: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor with its argument's name, also in tuples and behind Triton's tensor descriptors."""
    for name, value in arguments:
        if isinstance(value, torch.Tensor):
            yield name, value
        elif isinstance(value, (tuple, list)):
            yield from _tensors((f"{name}[{index}]", item) for index, item in enumerate(value))
        elif isinstance(getattr(value, "base", None), torch.Tensor):
            yield f"{name}.base", value.base


def under_tensors_device(
    original: Callable[..., Any],
    current: Callable[[], int],
    exchange: Callable[[int], int],
    strict: bool,
    device_type: str,
) -> Callable[..., Any]:
    """`original` (a ``run`` method of Triton) made to run under the device of its first device tensor."""

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        index = -1
        first = args[0] if args else None
        index = first.get_device() if isinstance(first, torch.Tensor) else -1
        if index < 0:
            index = first_device(args, kwargs)
        if strict:
            check_all(_name(self), _named(self, args, kwargs), device_type)
        if index < 0 or index == current():
            return original(self, *args, **kwargs)
        before = exchange(index)
        try:
            return original(self, *args, **kwargs)
        finally:
            exchange(before)

    run.__wrapped__ = original  # type: ignore[attr-defined]
    return run


def _name(kernel: Any) -> str:
    while not hasattr(kernel, "device_caches") and hasattr(kernel, "fn"):
        kernel = kernel.fn
    function = getattr(kernel, "fn", kernel)
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', function)}"


def _named(kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
    names = getattr(kernel, "arg_names", [str(number) for number in range(len(args))])
    return [*zip(names, args, strict=False), *kwargs.items()]
