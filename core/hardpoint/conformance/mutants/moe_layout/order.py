"""Layouts that mistake the order or the state of what they hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hardpoint.conformance.mutants._moe import Layout, mutant
from hardpoint.conformance.mutants.moe_layout._parts import SWAPPED, Tensors, swap
from hardpoint.moe import (
    CheckpointFormat,
    LayoutDescriptor,
    LoadSession,
    PackedExperts,
)


class _SwappedGateUp(Layout):
    def pack(self, source: Any, descriptor: LayoutDescriptor, **where: Any) -> PackedExperts:
        if isinstance(source, PackedExperts):
            source = swap(source)
        order = SWAPPED[descriptor.order] if descriptor.w13_state == "kernel" else descriptor.order
        return replace(self.base.pack(source, replace(descriptor, order=order), **where), descriptor=descriptor)

    def unpack(self, packed: PackedExperts, checkpoint: CheckpointFormat | None = None) -> Tensors:
        return self.base.unpack(swap(packed), checkpoint)


gate_up_swapped = mutant(
    "gate-up-swapped",
    "storage-is-as-declared",
    "Gate and up change places in packing and again in unpacking, so that a round trip shows nothing.",
    _SwappedGateUp,
)


class _SwappedOnLoad(Layout):
    def load(self, packed: PackedExperts, checkpoint: CheckpointFormat | None = None) -> LoadSession:
        return self.base.load(swap(packed), checkpoint)


gate_up_swapped_on_load = mutant(
    "gate-up-swapped-on-load",
    "load-equals-pack",
    "A load into kernel storage puts gate where the layout has up.",
    _SwappedOnLoad,
)


class _LoadIgnoresState(Layout):
    def load(self, packed: PackedExperts, checkpoint: CheckpointFormat | None = None) -> LoadSession:
        d = packed.descriptor
        if d.in_state("model").w13_shape == d.w13_shape and d.in_state("model").w2_shape == d.w2_shape:
            packed = replace(packed, descriptor=d.in_state("model"))
        return self.base.load(packed, checkpoint)


load_ignores_state = mutant(
    "load-ignores-state",
    "load-equals-pack",
    "Checkpoint names are loaded into processed storage as if it were unprocessed, where the shapes allow it.",
    _LoadIgnoresState,
)


class _Twice(Layout):
    def repack(self, source: PackedExperts, descriptor: LayoutDescriptor) -> PackedExperts:
        packed = self.base.pack(source, descriptor)
        if packed is not source:
            return packed
        tensors = (packed.w13_weight, packed.w2_weight)
        turned = [t.transpose(1, 2).contiguous() if t.shape[1] == t.shape[2] else t.flip(1) for t in tensors]
        return replace(packed, w13_weight=turned[0], w2_weight=turned[1])


processed_twice = mutant(
    "processed-twice",
    "twice-is-once",
    "Post-processing what is processed already transforms it again.",
    _Twice,
)


class _Guess(Layout):
    def repack(self, source: PackedExperts, descriptor: LayoutDescriptor) -> PackedExperts:
        model = source.descriptor.in_state("model")
        same = (tuple(source.w13_weight.shape), tuple(source.w2_weight.shape)) == (model.w13_shape, model.w2_shape)
        if same:
            source = replace(source, descriptor=model)
        return self.base.pack(source, descriptor)


layout_guessed = mutant(
    "layout-guessed-from-shape",
    "shape-says-nothing",
    "Storage that has the shape of the unprocessed state is taken for unprocessed.",
    _Guess,
)


class _OneStateForBoth(Layout):
    def repack(self, source: PackedExperts, descriptor: LayoutDescriptor) -> PackedExperts:
        guessed = replace(source.descriptor, w2_state=source.descriptor.w13_state)
        if guessed.w2_shape == source.descriptor.w2_shape:
            source = replace(source, descriptor=guessed)
        return self.base.pack(source, descriptor)


one_state_for_both = mutant(
    "one-state-for-both",
    "shape-says-nothing",
    "The state of w13_weight is taken for that of w2_weight too.",
    _OneStateForBoth,
)


class _SquareW2(Layout):
    def pack(self, source: Any, descriptor: LayoutDescriptor, **where: Any) -> PackedExperts:
        packed = self.base.pack(source, descriptor, **where)
        w2 = packed.w2_weight
        if w2.shape[1] != w2.shape[2]:
            return packed
        return replace(packed, w2_weight=w2.transpose(1, 2).contiguous())


w2_transposed = mutant(
    "w2-transposed",
    "shape-says-nothing",
    "w2_weight is transposed where it is square and nothing but the values can show it.",
    _SquareW2,
)
