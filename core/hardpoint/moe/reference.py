"""`ReferenceMoELayout`: every dense layout, by plain copies between views. The living definition of what is right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from hardpoint.errors import LayoutError
from hardpoint.moe.checkpoint import PER_EXPERT, CheckpointFormat
from hardpoint.moe.descriptor import SHARDS, Axes, LayoutDescriptor, Order, Shard
from hardpoint.moe.packed import PackedExperts, allocate
from hardpoint.moe.session import ReferenceLoadSession
from hardpoint.moe.views import ExpertViews, canonical, expert_views, split_gate_up


@dataclass(frozen=True)
class ReferenceMoELayout:
    """See `MoELayout`. The attributes say what the backend's kernels read; all dense layouts are offered.

    Attributes:
        order: of gate and up, see `LayoutDescriptor`.
        axes: ``[E,N,K]``, or ``[E,K,N]`` (Ascend; XPU but for 4 bits: vllm-xpu-kernels fused_moe_interface.py).
        intermediate_multiple: I_tp is padded to a multiple of this.
    """

    order: Order = "w13"
    axes: Axes = "[E,N,K]"
    intermediate_multiple: int = 1

    def kernel_layout(self, model: LayoutDescriptor) -> LayoutDescriptor:
        """See `MoELayout.kernel_layout`."""
        size = model.intermediate_per_rank
        padded = -(-size // self.intermediate_multiple) * self.intermediate_multiple
        return replace(
            model,
            order=self.order,
            axes=self.axes,
            padded_intermediate=None if padded == size else padded,
            w13_state="kernel",
            w2_state="kernel",
        )

    def pack(
        self,
        source: Mapping[str, torch.Tensor] | PackedExperts,
        descriptor: LayoutDescriptor,
        *,
        checkpoint: CheckpointFormat | None = None,
        device: torch.device | str | None = None,
        layer: str = "",
    ) -> PackedExperts:
        """See `MoELayout.pack`."""
        if isinstance(source, PackedExperts):
            where = source.w13_weight.device if device is None else torch.device(device)
            if source.descriptor == descriptor and source.w13_weight.device == where:
                return source
            packed = allocate(descriptor, where, layer or source.layer)
            self.copy_into(source, packed)
            return packed
        if device is None:
            if not source:
                raise LayoutError("there is nothing to pack: the source has no tensors")
            device = next(iter(source.values())).device
        session = self.load(allocate(descriptor, device, layer), checkpoint)
        for name, tensor in source.items():
            session.write(name, tensor)
        return session.finish()

    def unpack(self, packed: PackedExperts, checkpoint: CheckpointFormat | None = None) -> dict[str, torch.Tensor]:
        """See `MoELayout.unpack`."""
        checkpoint = checkpoint or PER_EXPERT
        _dense(packed.descriptor)
        views = expert_views(packed)
        if not checkpoint.fused:
            return {
                checkpoint.name_of(shard, expert, packed.layer): _whole(
                    views.shard(shard)[local], packed.descriptor, checkpoint
                )
                for local, expert in enumerate(packed.descriptor.local_experts)
                for shard in SHARDS
            }
        gate_up = _fused(views, checkpoint)
        return {
            checkpoint.name_of("gate", None, packed.layer): _whole(gate_up, packed.descriptor, checkpoint),
            checkpoint.name_of("down", None, packed.layer): _whole(views.down, packed.descriptor, checkpoint),
        }

    def load(self, packed: PackedExperts, checkpoint: CheckpointFormat | None = None) -> ReferenceLoadSession:
        """See `MoELayout.load`."""
        _dense(packed.descriptor)
        return ReferenceLoadSession(packed, checkpoint or PER_EXPERT)

    def copy_into(self, source: PackedExperts, destination: PackedExperts) -> None:
        """See `MoELayout.copy_into`."""
        _dense(source.descriptor)
        _dense(destination.descriptor)
        _check_same_weights(source, destination)
        theirs, ours = expert_views(source), expert_views(destination)
        groups: tuple[tuple[Shard, ...], ...] = (("gate", "up"), ("down",))
        for group in groups:
            # Copied out first: both may lie on one storage in two layouts.
            staged = {shard: theirs.shard(shard).to(ours.down.device, copy=True) for shard in group}
            for shard, values in staged.items():
                ours.shard(shard).copy_(values)
        for padding in ours.padding:
            padding.zero_()


def _fused(views: ExpertViews, checkpoint: CheckpointFormat) -> torch.Tensor:
    experts, size, hidden = views.gate.shape
    gate_up = torch.empty((experts, 2 * size, hidden), dtype=views.gate.dtype, device=views.gate.device)
    gate, up = split_gate_up(gate_up, checkpoint.order, size)
    gate.copy_(views.gate)
    up.copy_(views.up)
    return gate_up


def _whole(part: torch.Tensor, descriptor: LayoutDescriptor, checkpoint: CheckpointFormat) -> torch.Tensor:
    """Contiguous new memory in the checkpoint's axes and the weights' dtype."""
    whole = canonical(part, checkpoint.axes).clone(memory_format=torch.contiguous_format).view(descriptor.dtype)
    return whole.view(checkpoint.shape_of(tuple(whole.shape)))


def _dense(descriptor: LayoutDescriptor) -> None:
    if descriptor.format != "dense":
        raise LayoutError(
            f"the layout format {descriptor.format!r} is private to a backend; ReferenceMoELayout knows only 'dense'"
        )


def _check_same_weights(source: PackedExperts, destination: PackedExperts) -> None:
    for name in (
        "num_experts",
        "hidden_size",
        "intermediate_size",
        "dtype",
        "values_per_element",
        "tp_rank",
        "tp_size",
        "expert_to_local",
    ):
        theirs, ours = getattr(source.descriptor, name), getattr(destination.descriptor, name)
        if theirs != ours:
            raise LayoutError(
                f"cannot copy experts{source.where} into those{destination.where or ' of the destination'}: {name} is "
                f"{theirs} in the source and {ours} in the destination"
            )
