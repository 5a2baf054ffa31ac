"""Layouts to plant faults in: each changes one method of the base backend's layout and leaves the rest to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from hardpoint.backend import Backend
from hardpoint.conformance.mutant import Mutant
from hardpoint.moe import PER_EXPERT, CheckpointFormat, LayoutDescriptor, LoadSession, MoELayout, PackedExperts

Source = Mapping[str, torch.Tensor] | PackedExperts


class Layout:
    """The base layout; faults override a method."""

    def __init__(self, base: MoELayout) -> None:
        self.base = base

    def kernel_layout(self, model: LayoutDescriptor) -> LayoutDescriptor:
        return self.base.kernel_layout(model)

    def pack(
        self,
        source: Source,
        descriptor: LayoutDescriptor,
        *,
        checkpoint: CheckpointFormat | None = None,
        device: torch.device | str | None = None,
        layer: str = "",
    ) -> PackedExperts:
        if isinstance(source, PackedExperts):
            return self.repack(source, descriptor)
        return self.base.pack(source, descriptor, checkpoint=checkpoint, device=device, layer=layer)

    def repack(self, source: PackedExperts, descriptor: LayoutDescriptor) -> PackedExperts:
        return self.base.pack(source, descriptor)

    def unpack(self, packed: PackedExperts, checkpoint: CheckpointFormat | None = None) -> dict[str, torch.Tensor]:
        return self.base.unpack(packed, checkpoint)

    def load(self, packed: PackedExperts, checkpoint: CheckpointFormat | None = None) -> LoadSession:
        return self.base.load(packed, checkpoint)

    def copy_into(self, source: PackedExperts, destination: PackedExperts) -> None:
        self.base.copy_into(source, destination)


class Session:
    """A load session of the base layout; faults override a method."""

    def __init__(self, base: LoadSession) -> None:
        self.base = base

    def write(self, name: str, tensor: torch.Tensor) -> int:
        return self.base.write(name, tensor)

    def missing(self) -> tuple[str, ...]:
        return self.base.missing()

    def finish(self) -> PackedExperts:
        return self.base.finish()


def planted(layout: Callable[[MoELayout], Any]) -> Callable[[Backend], Backend]:
    """A mutation that wraps the backend's layout."""
    return lambda backend: replace(backend, moe_layout=layout(backend.moe_layout))


def mutant(name: str, law: str, statement: str, layout: Callable[[MoELayout], Any]) -> Mutant:
    return Mutant(f"moe_layout.{name}", f"moe_layout.{law}", "moe_layout", statement, planted(layout))


Edit = Callable[[dict[str, torch.Tensor], LayoutDescriptor], dict[str, torch.Tensor]]


def edited(edit: Edit) -> Callable[[MoELayout], Layout]:
    """Layouts whose `pack` is given a checkpoint that `edit` changed, per expert names, whatever format it came in."""

    class Edited(Layout):
        def pack(
            self,
            source: Source,
            descriptor: LayoutDescriptor,
            *,
            checkpoint: CheckpointFormat | None = None,
            device: torch.device | str | None = None,
            layer: str = "",
        ) -> PackedExperts:
            if isinstance(source, PackedExperts) or not source:
                return super().pack(source, descriptor, checkpoint=checkpoint, device=device, layer=layer)
            tensors = edit(per_expert(self.base, source, descriptor, checkpoint, layer), descriptor)
            return self.base.pack(tensors, descriptor, device=device, layer=layer)

    return Edited


def per_expert(
    base: MoELayout,
    source: Mapping[str, torch.Tensor],
    descriptor: LayoutDescriptor,
    checkpoint: CheckpointFormat | None,
    layer: str,
) -> dict[str, torch.Tensor]:
    """`source` of any checkpoint format under per expert names, on the host."""
    whole = LayoutDescriptor(
        descriptor.num_experts,
        descriptor.hidden_size,
        descriptor.intermediate_size,
        dtype=descriptor.dtype,
        values_per_element=descriptor.values_per_element,
    )
    packed = base.pack(source, whole, checkpoint=checkpoint, device="cpu", layer=layer)
    return base.unpack(packed, PER_EXPERT)


def shard_of(name: str) -> str:
    """gate, up or down of a per expert name."""
    return name.rsplit(".", 2)[-2].removesuffix("_proj")


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])
