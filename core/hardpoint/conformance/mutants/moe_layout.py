"""Expert layouts with a fault, and layouts that are different and right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from hardpoint.conformance.mutant import LegalVariant
from hardpoint.conformance.mutants._moe import Layout, Session, bits, edited, mutant, planted, shard_of
from hardpoint.errors import LayoutError
from hardpoint.moe import (
    FUSED,
    CheckpointFormat,
    LayoutDescriptor,
    LoadSession,
    PackedExperts,
    ReferenceMoELayout,
)
from hardpoint.moe.views import expert_views

Tensors = dict[str, torch.Tensor]
_SWAPPED: Any = {"w13": "w31", "w31": "w13", "interleaved": "interleaved"}


def _swap(packed: PackedExperts) -> PackedExperts:
    """The same storage, called the other way round."""
    if packed.descriptor.w13_state == "model":
        return packed
    return replace(packed, descriptor=replace(packed.descriptor, order=_SWAPPED[packed.descriptor.order]))


class _SwappedGateUp(Layout):
    def pack(self, source: Any, descriptor: LayoutDescriptor, **where: Any) -> PackedExperts:
        if isinstance(source, PackedExperts):
            source = _swap(source)
        order = _SWAPPED[descriptor.order] if descriptor.w13_state == "kernel" else descriptor.order
        return replace(self.base.pack(source, replace(descriptor, order=order), **where), descriptor=descriptor)

    def unpack(self, packed: PackedExperts, checkpoint: CheckpointFormat | None = None) -> Tensors:
        return self.base.unpack(_swap(packed), checkpoint)


gate_up_swapped = mutant(
    "gate-up-swapped",
    "storage-is-as-declared",
    "Gate and up change places in packing and again in unpacking, so that a round trip shows nothing.",
    _SwappedGateUp,
)


class _SwappedOnLoad(Layout):
    def load(self, packed: PackedExperts, checkpoint: CheckpointFormat | None = None) -> LoadSession:
        return self.base.load(_swap(packed), checkpoint)


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


def _first_slice_of_up(tensors: Tensors, descriptor: LayoutDescriptor) -> Tensors:
    size = descriptor.intermediate_per_rank
    return {
        name: torch.cat([tensor[:size]] * descriptor.tp_size) if shard_of(name) == "up" else tensor
        for name, tensor in tensors.items()
    }


up_of_rank_zero = mutant(
    "up-of-rank-zero",
    "unpack-inverts-pack",
    "Every tensor-parallel rank takes the first rank's slice of up, and its own of gate and down.",
    edited(_first_slice_of_up),
)


def _last_slice_of_gate(tensors: Tensors, descriptor: LayoutDescriptor) -> Tensors:
    size = descriptor.intermediate_per_rank
    return {
        name: torch.cat([tensor[-size:]] * descriptor.tp_size) if shard_of(name) == "gate" else tensor
        for name, tensor in tensors.items()
    }


gate_of_last_rank = mutant(
    "gate-of-last-rank",
    "ranks-make-the-whole",
    "Every tensor-parallel rank takes the last rank's slice of gate: rows are left out, others are there twice.",
    edited(_last_slice_of_gate),
)


def _plain_chunk(tensors: Tensors, descriptor: LayoutDescriptor) -> Tensors:
    changed = dict(tensors)
    for name in [name for name in tensors if shard_of(name) == "gate"]:
        up = name.replace("gate_proj", "up_proj")
        both = torch.cat([tensors[name], tensors[up]])
        chunks = [chunk.chunk(2) for chunk in both.chunk(descriptor.tp_size)]
        changed[name] = torch.cat([chunk[0] for chunk in chunks])
        changed[up] = torch.cat([chunk[1] for chunk in chunks])
    return changed


plain_chunk = mutant(
    "tp-cuts-the-fused-tensor",
    "storage-is-as-declared",
    "Gate and up are cut as one tensor of 2I rows, so that a rank gets only gate rows or only up rows.",
    edited(_plain_chunk),
)


def _roll_experts(tensors: Tensors, descriptor: LayoutDescriptor) -> Tensors:
    count = descriptor.num_experts
    names = list(tensors)
    return {name: tensors[names[(index + 3) % (3 * count)]] for index, name in enumerate(names)}


class _OffByOne(edited(_roll_experts)):  # type: ignore[misc]
    def unpack(self, packed: PackedExperts, checkpoint: CheckpointFormat | None = None) -> Tensors:
        found = self.base.unpack(packed, checkpoint)
        d = packed.descriptor
        if len(d.local_experts) != d.num_experts or d.expert_map is not None or (checkpoint and checkpoint.fused):
            return found  # type: ignore[no-any-return]
        names = list(found)
        return {name: found[names[(index - 3) % len(names)]] for index, name in enumerate(names)}


expert_map_off_by_one = mutant(
    "expert-map-off-by-one",
    "storage-is-as-declared",
    "Expert e is stored where expert e - 1 belongs, and unpacking shifts back where it has all of them.",
    _OffByOne,
)


class _LinearAlways(Layout):
    def pack(self, source: Any, descriptor: LayoutDescriptor, **where: Any) -> PackedExperts:
        here = sorted(descriptor.local_experts)
        ordered = tuple(here.index(expert) if expert in here else -1 for expert in range(descriptor.num_experts))
        packed = self.base.pack(source, replace(descriptor, expert_map=ordered), **where)
        return replace(packed, descriptor=descriptor)


expert_order_ignored = mutant(
    "expert-order-ignored",
    "unpack-inverts-pack",
    "Experts are stored in global order, whatever the expert map says.",
    _LinearAlways,
)


class _SkippedRemote(Session):
    """Forgets what it was given, so that it takes it again."""

    def __init__(self, base: LoadSession) -> None:
        super().__init__(base)
        self.counts: dict[str, int] = {}

    def write(self, name: str, tensor: torch.Tensor) -> int:
        try:
            self.counts[name] = self.base.write(name, tensor)
        except LayoutError:
            if self.counts.get(name, 1):
                raise
        return self.counts[name]


class _RemoteAgain(Layout):
    def load(self, packed: PackedExperts, checkpoint: CheckpointFormat | None = None) -> LoadSession:
        return _SkippedRemote(self.base.load(packed, checkpoint))


remote_twice = mutant(
    "second-write-of-remote-expert-accepted",
    "each-element-once",
    "A second write of an expert is refused only on the rank that has it: ranks disagree about the same stream.",
    _RemoteAgain,
)


class _AcceptsTwice(Session):
    def __init__(self, base: LoadSession, again: Any) -> None:
        super().__init__(base)
        self.again = again

    def write(self, name: str, tensor: torch.Tensor) -> int:
        try:
            return self.base.write(name, tensor)
        except LayoutError as error:
            if "already written" not in str(error):
                raise
            return int(self.again().write(name, tensor))


class _WrittenTwice(Layout):
    def load(self, packed: PackedExperts, checkpoint: CheckpointFormat | None = None) -> LoadSession:
        return _AcceptsTwice(self.base.load(packed, checkpoint), lambda: self.base.load(packed, checkpoint))


written_twice = mutant(
    "written-twice",
    "each-element-once",
    "A second write of the same expert and shard overwrites the first.",
    _WrittenTwice,
)


class _NothingMissing(Session):
    def __init__(self, base: LoadSession, packed: PackedExperts) -> None:
        super().__init__(base)
        self.packed = packed

    def missing(self) -> tuple[str, ...]:
        return ()

    def finish(self) -> PackedExperts:
        return self.packed if self.base.missing() else self.base.finish()


class _MissingAccepted(Layout):
    def load(self, packed: PackedExperts, checkpoint: CheckpointFormat | None = None) -> LoadSession:
        return _NothingMissing(self.base.load(packed, checkpoint), packed)


missing_accepted = mutant(
    "missing-accepted",
    "each-element-once",
    "A load that lacks experts finishes, and the old weights stay between the new ones.",
    _MissingAccepted,
)


def _dirty(packed: PackedExperts) -> PackedExperts:
    if packed.descriptor.format == "dense":
        for padding in expert_views(packed).padding:
            padding.fill_(0x5A)
    return packed


class _DirtyPadding(Layout):
    def pack(self, source: Any, descriptor: LayoutDescriptor, **where: Any) -> PackedExperts:
        return _dirty(self.base.pack(source, descriptor, **where))


padding_garbage = mutant(
    "padding-garbage",
    "storage-is-as-declared",
    "Padding of the intermediate size keeps what the allocator left there.",
    _DirtyPadding,
)


class _DirtyLoad(Session):
    def finish(self) -> PackedExperts:
        return _dirty(self.base.finish())


class _DirtyPaddingOnLoad(Layout):
    def load(self, packed: PackedExperts, checkpoint: CheckpointFormat | None = None) -> LoadSession:
        return _DirtyLoad(self.base.load(packed, checkpoint))


padding_garbage_on_load = mutant(
    "padding-garbage-on-load",
    "load-equals-pack",
    "A load writes the weights and leaves garbage in the padding.",
    _DirtyPaddingOnLoad,
)


class _Accumulating(Session):
    def __init__(self, base: LoadSession, packed: PackedExperts) -> None:
        super().__init__(base)
        self.packed = packed
        self.before = [bits(tensor).clone() for tensor in (packed.w13_weight, packed.w2_weight)]

    def finish(self) -> PackedExperts:
        packed = self.base.finish()
        for tensor, before in zip((packed.w13_weight, packed.w2_weight), self.before, strict=True):
            bits(tensor).copy_(torch.bitwise_or(bits(tensor), before))
        return packed


class _Accumulates(Layout):
    def load(self, packed: PackedExperts, checkpoint: CheckpointFormat | None = None) -> LoadSession:
        return _Accumulating(self.base.load(packed, checkpoint), packed)


load_accumulates = mutant(
    "load-accumulates",
    "load-equals-pack",
    "What a storage held before a load shows through afterwards.",
    _Accumulates,
)


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


# -- legal variants ----------------------------------------------------------------------------------------------------

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
