"""Where an operation runs: on the one device that all its tensors are on, or nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from hardpoint_sim.errors import DeviceMix
from hardpoint_sim.tensor import SimTensor

# torch moves host indices to the device by itself; a real accelerator accepts them too.
_HOST_INDICES = {"aten::index.Tensor", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}


def named_tensors(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor argument with its position and name in the schema, for messages."""
    declared = func._schema.arguments
    for position, value in enumerate(args):
        name = declared[position].name if position < len(declared) else "?"
        yield from _tensors(f"argument {position} ({name})", value)
    for name, value in kwargs.items():
        yield from _tensors(f"argument '{name}'", value)


def _tensors(label: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield label, value
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _tensors(f"{label}[{index}]", item)


def is_host_scalar(tensor: torch.Tensor) -> bool:
    """torch lets a host tensor without dimensions stand for a number in device operations."""
    return tensor.device.type == "cpu" and tensor.dim() == 0


def place(func: Any, tensors: list[tuple[str, torch.Tensor]], written: set[int], check: bool) -> SimTensor:
    """The first device tensor; DeviceMix, naming operation, arguments and devices, if they do not agree.

    `written` holds the ids of the tensors that the operation writes: those may never be on the host.
    """
    first = next(tensor for _, tensor in tensors if isinstance(tensor, SimTensor))
    if not check:
        return first
    indices = _schema_name(func) in _HOST_INDICES
    for label, tensor in tensors:
        if isinstance(tensor, SimTensor):
            if tensor.engine is not first.engine:
                raise DeviceMix(
                    f"{func} was called with tensors of two simulators ({label} belongs to another one); tensors made "
                    "before a simulator was built anew cannot be used with it"
                )
            if tensor.device == first.device:
                continue
        elif id(tensor) not in written and (is_host_scalar(tensor) or (indices and "indices" in label)):
            continue
        where = ", ".join(f"{name} on {value.device}" for name, value in tensors)
        raise DeviceMix(
            f"{func} was called with tensors on different devices: {where}. All tensors of one operation have to be on "
            f"one device; copy {label} first, for example with .to('{first.device}')"
        )
    return first


def _schema_name(func: Any) -> str:
    schema = func._schema
    return f"{schema.name}.{schema.overload_name}" if schema.overload_name else str(schema.name)
