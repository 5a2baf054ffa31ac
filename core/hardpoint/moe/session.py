"""`ReferenceLoadSession`: checkpoint tensors into packed storage, every element exactly once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hardpoint.errors import LayoutError
from hardpoint.moe.checkpoint import CheckpointFormat, CheckpointName
from hardpoint.moe.descriptor import SHARDS, LayoutDescriptor, Shard
from hardpoint.moe.packed import PackedExperts
from hardpoint.moe.views import canonical, expert_views, split_gate_up, words


class ReferenceLoadSession:
    """See `LoadSession`. Coverage is kept per (global expert, shard): a shard is one region of the storage."""

    def __init__(self, packed: PackedExperts, checkpoint: CheckpointFormat) -> None:
        self.packed = packed
        self.checkpoint = checkpoint
        self._descriptor = packed.descriptor
        self._views = expert_views(packed)
        self._layer = packed.layer or None
        self._writers: dict[tuple[int, Shard], str] = {}
        self._closed = False

    def write(self, name: str, tensor: torch.Tensor) -> int:
        """See `LoadSession.write`."""
        if self._closed:
            raise LayoutError(f"{name} came after the load session{self.packed.where} was finished; open a new one")
        parsed = self.checkpoint.parse(name)
        experts = self._experts(name, parsed)
        self._check_tensor(name, parsed, tensor)
        regions = [(expert, shard) for expert in experts for shard in parsed.shards]
        for expert, shard in regions:
            if (expert, shard) in self._writers:
                raise LayoutError(
                    f"{shard} of expert {expert}{self.packed.where} was already written by "
                    f"{self._writers[expert, shard]} in this load session, and {name} would write it again"
                )
        to_local = self._descriptor.expert_to_local
        here = [expert for expert in experts if to_local[expert] >= 0]
        if here:
            self._copy(parsed, here, tensor)
        self._layer = parsed.layer
        self._writers.update(dict.fromkeys(regions, name))
        return len(here) * len(parsed.shards)

    def missing(self) -> tuple[str, ...]:
        """See `LoadSession.missing`."""
        names = (
            self.checkpoint.name_of(shard, expert, self._layer or "")
            for expert in self._descriptor.local_experts
            for shard in SHARDS
            if (expert, shard) not in self._writers
        )
        return tuple(dict.fromkeys(names))

    def finish(self) -> PackedExperts:
        """See `LoadSession.finish`."""
        missing = self.missing()
        if missing:
            shown = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
            raise LayoutError(
                f"{len(missing)} tensors are missing for the experts{self.packed.where} on ep_rank "
                f"{self._descriptor.ep_rank}, tp_rank {self._descriptor.tp_rank}: {shown}"
            )
        if not self._closed:
            for padding in self._views.padding:
                padding.zero_()
        self._closed = True
        return self.packed

    def _experts(self, name: str, parsed: CheckpointName) -> Sequence[int]:
        if self._layer is not None and parsed.layer != self._layer:
            raise LayoutError(
                f"{name} belongs to layer {parsed.layer!r}, but this load session is for layer {self._layer!r}"
            )
        if parsed.expert is None:
            return range(self._descriptor.num_experts)
        if parsed.expert >= self._descriptor.num_experts:
            raise LayoutError(
                f"{name} is expert {parsed.expert}, but{self.packed.where or ' the layer'} has experts 0 to "
                f"{self._descriptor.num_experts - 1}"
            )
        return (parsed.expert,)

    def _check_tensor(self, name: str, parsed: CheckpointName, tensor: torch.Tensor) -> None:
        expected = checkpoint_shape(self._descriptor, self.checkpoint, parsed)
        if tuple(tensor.shape) != expected:
            raise LayoutError(
                f"{name}{self.packed.where} must have shape {expected} (uncut, {self.checkpoint.name} checkpoint "
                f"format), found {tuple(tensor.shape)}"
            )
        if tensor.dtype != self._descriptor.dtype:
            raise LayoutError(
                f"{name}{self.packed.where} must have dtype {self._descriptor.dtype}, found {tensor.dtype}; convert it "
                f"before the load, nothing is converted here"
            )

    def _copy(self, parsed: CheckpointName, here: Sequence[int], tensor: torch.Tensor) -> None:
        descriptor, views = self._descriptor, self._views
        local = [descriptor.expert_to_local[expert] for expert in here]
        bits = words(tensor)
        source = canonical(bits if self.checkpoint.group == 1 else bits.flatten(-2), self.checkpoint.axes)
        parts: Sequence[torch.Tensor] = (source,)
        if len(parsed.shards) == 2:
            parts = split_gate_up(source, self.checkpoint.order, descriptor.intermediate_size)
        for shard, part in zip(parsed.shards, parts, strict=True):
            cut = cut_for_rank(part, shard, descriptor)
            for expert, index in zip(here, local, strict=True):
                own = cut if parsed.expert is not None else cut[expert]
                views.shard(shard)[index].copy_(own.to(self.packed.w13_weight.device))


def cut_for_rank(whole: torch.Tensor, shard: Shard, descriptor: LayoutDescriptor) -> torch.Tensor:
    """The tensor-parallel slice of `whole` ``[..., N, K]``: rows of gate and up (each on its own), columns of down."""
    size, dim = descriptor.intermediate_per_rank, -2
    if shard == "down":
        size, dim = size // descriptor.values_per_element, -1
    return whole.narrow(dim, descriptor.tp_rank * size, size)


def checkpoint_shape(
    descriptor: LayoutDescriptor, checkpoint: CheckpointFormat, parsed: CheckpointName
) -> tuple[int, ...]:
    """Shape of an uncut checkpoint tensor, in storage elements."""
    per = descriptor.values_per_element
    if parsed.shards == ("down",):
        n, k = descriptor.hidden_size, descriptor.intermediate_size // per
    else:
        n, k = descriptor.intermediate_size * len(parsed.shards), descriptor.hidden_size // per
    matrix = checkpoint.shape_of((n, k) if checkpoint.axes == "[E,N,K]" else (k, n))
    return matrix if parsed.expert is not None else (descriptor.num_experts, *matrix)
