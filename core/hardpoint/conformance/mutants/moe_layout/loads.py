"""Loads with a fault."""

from __future__ import annotations

from typing import Any

import torch

from hardpoint.conformance.mutants._moe import Layout, Session, bits, mutant
from hardpoint.errors import LayoutError
from hardpoint.moe import (
    CheckpointFormat,
    LayoutDescriptor,
    LoadSession,
    PackedExperts,
)
from hardpoint.moe.views import expert_views


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
