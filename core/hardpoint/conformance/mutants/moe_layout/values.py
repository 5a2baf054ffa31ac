"""Layouts that change values, storage or formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from hardpoint.conformance.mutants._moe import Layout, Session, bits, edited, mutant
from hardpoint.conformance.mutants.moe_layout._parts import Tensors
from hardpoint.errors import LayoutError
from hardpoint.moe import (
    FUSED,
    CheckpointFormat,
    LayoutDescriptor,
    LoadSession,
    PackedExperts,
)
from hardpoint.moe.views import expert_views


def _quiet_nan(tensors: Tensors, descriptor: LayoutDescriptor) -> Tensors:
    if not descriptor.dtype.is_floating_point:
        return tensors
    nan = float("nan")
    wide = {name: tensor.to(torch.float64) for name, tensor in tensors.items()}
    return {name: torch.where(value.isnan(), nan, value).to(descriptor.dtype) for name, value in wide.items()}


nan_rewritten = mutant(
    "nan-rewritten",
    "unpack-inverts-pack",
    "Weights pass through arithmetic, which gives every NaN the same payload.",
    edited(_quiet_nan),
)


def _narrow(tensors: Tensors, descriptor: LayoutDescriptor) -> Tensors:
    if descriptor.dtype != torch.float32:
        return tensors
    return {name: tensor.to(torch.bfloat16).to(torch.float32) for name, tensor in tensors.items()}


precision_lost = mutant(
    "precision-lost",
    "unpack-inverts-pack",
    "float32 weights pass through bfloat16.",
    edited(_narrow),
)


class _Converting(Session):
    def __init__(self, base: LoadSession, dtype: torch.dtype) -> None:
        super().__init__(base)
        self.dtype = dtype

    def write(self, name: str, tensor: torch.Tensor) -> int:
        return self.base.write(name, tensor.to(self.dtype))


class _Converts(Layout):
    def load(self, packed: PackedExperts, checkpoint: CheckpointFormat | None = None) -> LoadSession:
        return _Converting(self.base.load(packed, checkpoint), packed.descriptor.dtype)


dtype_converted = mutant(
    "dtype-converted",
    "misfits-are-refused",
    "A tensor of another dtype is converted and taken, and nobody is told.",
    _Converts,
)


class _Turning(Session):
    def write(self, name: str, tensor: torch.Tensor) -> int:
        try:
            return self.base.write(name, tensor)
        except LayoutError as error:
            if "must have shape" not in str(error) or tensor.dim() != 2:
                raise
            return self.base.write(name, tensor.t())


class _TurnsToFit(Layout):
    def load(self, packed: PackedExperts, checkpoint: CheckpointFormat | None = None) -> LoadSession:
        return _Turning(self.base.load(packed, checkpoint))


turned_to_fit = mutant(
    "turned-to-fit",
    "misfits-are-refused",
    "A tensor whose shape fits only transposed is transposed and taken.",
    _TurnsToFit,
)


class _NewStorage(Session):
    def finish(self) -> PackedExperts:
        packed = self.base.finish()
        return replace(packed, w13_weight=packed.w13_weight.clone(), w2_weight=packed.w2_weight.clone())


class _Moves(Layout):
    def load(self, packed: PackedExperts, checkpoint: CheckpointFormat | None = None) -> LoadSession:
        return _NewStorage(self.base.load(packed, checkpoint))


storage_moved = mutant(
    "storage-moved",
    "addresses-stay",
    "A load ends with weights in new storage; captured graphs read the old one from then on.",
    _Moves,
)


class _ReplacesTensors(Layout):
    def copy_into(self, source: PackedExperts, destination: PackedExperts) -> None:
        moved = replace(destination, w13_weight=destination.w13_weight.clone(), w2_weight=destination.w2_weight.clone())
        self.base.copy_into(source, moved)
        object.__setattr__(destination, "w13_weight", moved.w13_weight)
        object.__setattr__(destination, "w2_weight", moved.w2_weight)


copy_replaces = mutant(
    "copy-replaces-tensors",
    "addresses-stay",
    "A copy gives the destination new tensors instead of writing into those it has.",
    _ReplacesTensors,
)


class _PlainCopy(Layout):
    def copy_into(self, source: PackedExperts, destination: PackedExperts) -> None:
        theirs, ours = (source.w13_weight, source.w2_weight), (destination.w13_weight, destination.w2_weight)
        self.base.copy_into(source, destination)
        for a, b in zip(theirs, ours, strict=True):
            if a.shape == b.shape and a.dtype == b.dtype:
                bits(b).copy_(bits(a))


plain_copy = mutant(
    "copy-without-transform",
    "copy-into-transforms",
    "Storage of the same shape is copied as it is, whatever the two descriptors say.",
    _PlainCopy,
)


class _AnyCoordinates(Layout):
    def copy_into(self, source: PackedExperts, destination: PackedExperts) -> None:
        d = destination.descriptor
        same = replace(source.descriptor, tp_rank=d.tp_rank, expert_map=d.expert_map)
        self.base.copy_into(replace(source, descriptor=same), destination)


coordinates_ignored = mutant(
    "copy-ignores-coordinates",
    "misfits-are-refused",
    "One rank's part is copied over another rank's without a word.",
    _AnyCoordinates,
)


class _Consumes(Layout):
    def repack(self, source: PackedExperts, descriptor: LayoutDescriptor) -> PackedExperts:
        packed = self.base.pack(source, descriptor)
        if packed is not source and packed.w13_weight.shape == source.w13_weight.shape:
            bits(source.w13_weight).copy_(bits(packed.w13_weight))
        return packed


source_consumed = mutant(
    "source-consumed",
    "twice-is-once",
    "Post-processing rewrites the storage that it reads, whose descriptor goes on saying what was there before.",
    _Consumes,
)


class _DropsMap(Layout):
    def kernel_layout(self, model: LayoutDescriptor) -> LayoutDescriptor:
        return replace(self.base.kernel_layout(model), expert_map=None)


expert_map_dropped = mutant(
    "kernel-layout-drops-the-expert-map",
    "kernel-layout-keeps-the-model",
    "The kernel's layout forgets which experts are on this rank.",
    _DropsMap,
)


class _OneFusedFormat(Layout):
    @staticmethod
    def _guess(
        name: str, tensor: torch.Tensor, checkpoint: CheckpointFormat, descriptor: LayoutDescriptor
    ) -> torch.Tensor:
        """What the base layout has to be given to read `tensor` as the fused format, where the shape allows that."""
        down = name.endswith(FUSED.patterns[2])
        n, k = descriptor.hidden_size, descriptor.intermediate_size
        if tuple(tensor.shape[1:]) != ((n, k) if down else (2 * k, n)):
            return tensor
        if not down and checkpoint.order == "interleaved":
            gate, up = tensor.chunk(2, 1)
            tensor = torch.stack([gate, up], 2).reshape(tensor.shape)
        return tensor.transpose(1, 2).contiguous() if checkpoint.axes == "[E,K,N]" else tensor

    def pack(
        self, source: Any, descriptor: LayoutDescriptor, *, checkpoint: CheckpointFormat | None = None, **where: Any
    ) -> PackedExperts:
        if isinstance(source, Mapping) and checkpoint is not None and checkpoint.patterns == FUSED.patterns:
            source = {name: self._guess(name, tensor, checkpoint, descriptor) for name, tensor in source.items()}
        return self.base.pack(source, descriptor, checkpoint=checkpoint, **where)


format_guessed = mutant(
    "checkpoint-format-guessed",
    "formats-are-declared",
    "A fused tensor is read as gate over up wherever its shape allows that, interleaved or transposed as it may be.",
    _OneFusedFormat,
)


class _Aliases(Layout):
    def unpack(self, packed: PackedExperts, checkpoint: CheckpointFormat | None = None) -> Tensors:
        found = self.base.unpack(packed, checkpoint)
        if packed.descriptor.format != "dense" or (checkpoint is not None and checkpoint.fused):
            return found
        views = expert_views(packed)
        shards = [view[local] for local in range(views.gate.shape[0]) for view in (views.gate, views.up, views.down)]
        return {name: shard.view(packed.descriptor.dtype) for name, shard in zip(found, shards, strict=True)}


unpack_aliases = mutant(
    "unpack-aliases-storage",
    "unpack-inverts-pack",
    "Unpacked tensors are views of the storage and change with the next load.",
    _Aliases,
)
