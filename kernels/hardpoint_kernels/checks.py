"""Checks of arguments, each a sentence that names the argument, what was expected and what was found."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hardpoint_kernels.errors import KernelRefused


def expect_shape(kernel: str, name: str, tensor: torch.Tensor, shape: Sequence[int | None], meaning: str) -> None:
    """`shape` with None where any size will do; `meaning` is the shape in words, such as ``[tokens, HV]``."""
    found = tuple(tensor.shape)
    if len(found) != len(shape) or any(
        want is not None and want != have for want, have in zip(shape, found, strict=True)
    ):
        wanted = "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"
        raise KernelRefused(f"{kernel}: {name} must be {meaning} = {wanted}, got {list(found)}; nothing was launched.")


def expect_dtype(kernel: str, name: str, tensor: torch.Tensor, dtypes: Sequence[torch.dtype]) -> None:
    """One of `dtypes`."""
    if tensor.dtype not in dtypes:
        wanted = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        found = str(tensor.dtype).removeprefix("torch.")
        raise KernelRefused(f"{kernel}: {name} must be {wanted}, got {found}; nothing was launched.")


def expect_dense_rows(kernel: str, name: str, tensor: torch.Tensor, dims: int = 1) -> None:
    """The last `dims` dimensions lie without gaps; the stride of the ones before is free."""
    expected = 1
    for dim in range(1, dims + 1):
        if tensor.shape[-dim] != 1 and tensor.stride(-dim) != expected:
            raise KernelRefused(
                f"{kernel}: the last {dims} dimension(s) of {name} must be contiguous, got strides "
                f"{list(tensor.stride())} for shape {list(tensor.shape)}: call .contiguous(); nothing was launched."
            )
        expected *= tensor.shape[-dim]


def expect_one_device(kernel: str, tensors: dict[str, torch.Tensor | None]) -> None:
    """All tensors on one device."""
    devices = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
    if len(set(devices.values())) > 1:
        found = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise KernelRefused(f"{kernel}: all tensors must be on one device, got {found}; nothing was launched.")


def check_slots(kernel: str, slots: torch.Tensor, pool_size: int, null_slot: int = -1, *, name: str = "slots") -> None:
    """Refuse slots past the pool, and slots used twice. Reads `slots` on the host, so it waits for the device.

    The kernels do not need it to stay inside the pool: a slot that is negative, `null_slot` or not below `pool_size` is
    padding to them, its output is zero. Two requests with one slot race, and only this check tells.
    """
    values = slots.flatten().tolist()
    beyond = sorted({value for value in values if value >= pool_size})
    if beyond:
        raise KernelRefused(
            f"{kernel}: {name} must be below the pool's {pool_size} slots, or negative or {null_slot} for padding, got "
            f"{beyond}; nothing was launched."
        )
    used = [value for value in values if value >= 0 and value != null_slot]
    double = sorted({value for value in used if used.count(value) > 1})
    if double:
        raise KernelRefused(
            f"{kernel}: every request must have a slot of its own, got {double} more than once in {name}; two requests "
            "would write one state. Nothing was launched."
        )
