"""`PackedExperts`: the expert weights of one layer on one rank, with the descriptor that says how to read them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hardpoint.errors import LayoutError
from hardpoint.moe.descriptor import LayoutDescriptor


@dataclass(frozen=True)
class PackedExperts:
    """Storage and its declared layout. Checked when made: a tensor that does not fit the descriptor is refused here.

    Attributes:
        w13_weight: gate and up, shape ``descriptor.w13_shape``.
        w2_weight: down, shape ``descriptor.w2_shape``.
        descriptor: how both are laid out now.
        layer: the module's name, for errors and to tell checkpoint names of other layers; may be empty.

    Raises:
        LayoutError: a shape, dtype or device does not fit, or a storage overlaps itself.
    """

    w13_weight: torch.Tensor
    w2_weight: torch.Tensor
    descriptor: LayoutDescriptor
    layer: str = ""

    def __post_init__(self) -> None:
        if self.descriptor.format == "dense":
            # What a private format's storage looks like is for its backend to know and check.
            self._check("w13_weight", self.w13_weight, self.descriptor.w13_shape, self.descriptor.w13_state)
            self._check("w2_weight", self.w2_weight, self.descriptor.w2_shape, self.descriptor.w2_state)
        if self.w13_weight.device != self.w2_weight.device:
            raise LayoutError(
                f"w13_weight and w2_weight{self.where} must be on one device, found {self.w13_weight.device} and "
                f"{self.w2_weight.device}"
            )

    @property
    def where(self) -> str:
        """`` of layer X`` for sentences, empty without a layer name."""
        return f" of layer {self.layer}" if self.layer else ""

    def _check(self, name: str, tensor: torch.Tensor, shape: tuple[int, ...], state: str) -> None:
        descriptor = self.descriptor
        if tuple(tensor.shape) != shape:
            raise LayoutError(
                f"{name}{self.where} is declared {state} state, {descriptor.order} {descriptor.axes}, which is shape "
                f"{shape}, found {tuple(tensor.shape)}; declare the layout it really has"
            )
        if tensor.dtype != descriptor.dtype:
            raise LayoutError(f"{name}{self.where} is declared {descriptor.dtype}, found {tensor.dtype}")
        if any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
            raise LayoutError(
                f"{name}{self.where} overlaps itself (strides {tensor.stride()}): its elements would be written twice"
            )


def allocate(descriptor: LayoutDescriptor, device: torch.device | str, layer: str = "") -> PackedExperts:
    """Storage of `descriptor`, uninitialised but for padding that nothing would write; fill it by `MoELayout.load`."""
    if descriptor.format != "dense":
        raise LayoutError(f"storage of the private format {descriptor.format!r} is allocated by its backend")
    return PackedExperts(
        torch.empty(descriptor.w13_shape, dtype=descriptor.dtype, device=device),
        torch.empty(descriptor.w2_shape, dtype=descriptor.dtype, device=device),
        descriptor,
        layer,
    )
