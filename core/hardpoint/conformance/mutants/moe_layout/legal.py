"""Different and right."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hardpoint.conformance.mutant import LegalVariant
from hardpoint.conformance.mutants._moe import Layout, Session, bits, planted
from hardpoint.conformance.mutants.moe_layout._parts import Tensors
from hardpoint.errors import LayoutError
from hardpoint.moe import (
    CheckpointFormat,
    LayoutDescriptor,
    LoadSession,
    PackedExperts,
    ReferenceMoELayout,
)

transposed = LegalVariant(
    "moe_layout.transposed-kernel-layout",
    "moe_layout",
    "Kernels read [E,K,N], as on Ascend and XPU.",
    lambda backend: replace(backend, moe_layout=ReferenceMoELayout(axes="[E,K,N]")),
)
swapped_and_padded = LegalVariant(
    "moe_layout.w31-padded",
    "moe_layout",
    "Kernels read up before gate, padded to multiples of 16 rows.",
    lambda backend: replace(backend, moe_layout=ReferenceMoELayout(order="w31", intermediate_multiple=16)),
)


class _OwnLayoutOnly(Layout):
    def pack(self, source: Any, descriptor: LayoutDescriptor, **where: Any) -> PackedExperts:
        self._check(descriptor)
        return self.base.pack(source, descriptor, **where)

    def _check(self, descriptor: LayoutDescriptor) -> None:
        own = self.kernel_layout(descriptor)
        if replace(own, w13_state=descriptor.w13_state, w2_state=descriptor.w2_state) != descriptor:
            raise LayoutError(f"this backend packs {own.order} {own.axes} without padding, got {descriptor}")


own_layout_only = LegalVariant(
    "moe_layout.own-layout-only",
    "moe_layout",
    "Only the layout that the backend's kernels read is offered; all others are refused by name.",
    planted(lambda base: _OwnLayoutOnly(ReferenceMoELayout(order="interleaved", axes="[E,K,N]"))),
)


class _Copies(Layout):
    def repack(self, source: PackedExperts, descriptor: LayoutDescriptor) -> PackedExperts:
        packed = self.base.pack(source, descriptor)
        return replace(packed, w13_weight=packed.w13_weight.clone(), w2_weight=packed.w2_weight.clone())


always_copies = LegalVariant(
    "moe_layout.always-copies",
    "moe_layout",
    "Packing what is packed already gives a copy of it instead of itself.",
    planted(_Copies),
)


class _MirrorSession(Session):
    """Loads into dense scratch and stores it mirrored at the end."""

    def __init__(self, base: LoadSession, target: PackedExperts) -> None:
        super().__init__(base)
        self.target = target

    def finish(self) -> PackedExperts:
        _store(self.base.finish(), self.target)
        return self.target


def _store(dense: PackedExperts, target: PackedExperts) -> None:
    bits(target.w13_weight).copy_(bits(dense.w13_weight).flip(2))
    bits(target.w2_weight).copy_(bits(dense.w2_weight).flip(2))


def _dense(packed: PackedExperts) -> PackedExperts:
    if packed.descriptor.format == "dense":
        return packed
    dtype = packed.descriptor.dtype
    return replace(
        packed,
        w13_weight=bits(packed.w13_weight).flip(2).view(dtype),
        w2_weight=bits(packed.w2_weight).flip(2).view(dtype),
        descriptor=replace(packed.descriptor, format="dense"),
    )


class _Mirrored(Layout):
    def kernel_layout(self, model: LayoutDescriptor) -> LayoutDescriptor:
        return replace(self.base.kernel_layout(replace(model, format="dense")), format="mirrored")

    def pack(self, source: Any, descriptor: LayoutDescriptor, **where: Any) -> PackedExperts:
        if isinstance(source, PackedExperts):
            source = _dense(source)
        dense = self.base.pack(source, replace(descriptor, format="dense"), **where)
        if descriptor.format == "dense":
            return dense
        fresh = replace(dense, w13_weight=dense.w13_weight.clone(), w2_weight=dense.w2_weight.clone())
        target = replace(fresh, descriptor=descriptor)
        _store(dense, target)
        return target

    def unpack(self, packed: PackedExperts, checkpoint: CheckpointFormat | None = None) -> Tensors:
        return self.base.unpack(_dense(packed), checkpoint)

    def load(self, packed: PackedExperts, checkpoint: CheckpointFormat | None = None) -> LoadSession:
        if packed.descriptor.format == "dense":
            return self.base.load(packed, checkpoint)
        return _MirrorSession(self.base.load(_dense(packed), checkpoint), packed)

    def copy_into(self, source: PackedExperts, destination: PackedExperts) -> None:
        if destination.descriptor.format == "dense":
            self.base.copy_into(_dense(source), destination)
            return
        dense = _dense(destination)
        self.base.copy_into(_dense(source), dense)
        _store(dense, destination)


private_format = LegalVariant(
    "moe_layout.private-format",
    "moe_layout",
    "Kernels read a private format with an inverse; the storage means nothing to anybody else.",
    planted(_Mirrored),
)
