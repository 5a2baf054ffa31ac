"""Biases of experts (gpt-oss): `w13_bias` in the order of `w13_weight`, `w2_bias` on tensor-parallel rank 0 alone.

They lie beside the weights and are described by the weights' descriptor: a bias is a matrix of one column. No axes, no
packing along K; padding of I and the order of gate and up are the weights'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from hardpoint.errors import LayoutError
from hardpoint.moe.checkpoint import CheckpointFormat
from hardpoint.moe.descriptor import SHARDS, LayoutDescriptor, Shard
from hardpoint.moe.views import split_gate_up, words


@dataclass(frozen=True)
class PackedBiases:
    """Of one layer on one rank.

    Attributes:
        w13_bias: ``[E_local, 2 * I_tp]``, padded as `w13_weight` is.
        w2_bias: ``[E_local, H]``; zero on every tensor-parallel rank but the first: what it is added to is summed.
    """

    w13_bias: torch.Tensor
    w2_bias: torch.Tensor
    descriptor: LayoutDescriptor


def pack_biases(
    source: Mapping[str, torch.Tensor],
    descriptor: LayoutDescriptor,
    *,
    checkpoint: CheckpointFormat,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    layer: str = "",
) -> PackedBiases:
    """This rank's biases in the kernels' order, new memory.

    Args:
        source: the layer's bias tensors by checkpoint name, uncut.
        descriptor: of the weights.
        checkpoint: of the weights: the biases' names are its ``bias`` companion's.

    Raises:
        LayoutError: a tensor is missing, or of another shape or dtype; it is named.
    """
    form = checkpoint.companion("bias")
    wanted = _shapes(descriptor, form, layer)
    _check(source, wanted, dtype)
    experts, size = len(descriptor.local_experts), descriptor.intermediate_per_rank
    kernel = descriptor.w13_state == "kernel"
    padded = (descriptor.padded_intermediate or size) if kernel else size
    w13 = torch.zeros((experts, 2 * padded), dtype=dtype, device=device)
    w2 = torch.zeros((experts, descriptor.hidden_size), dtype=dtype, device=device)
    gate, up, *_ = split_gate_up(words(w13).unsqueeze(-1), descriptor.order if kernel else "w13", size)
    first = descriptor.tp_rank * size
    for local, expert in enumerate(descriptor.local_experts):
        shards: tuple[tuple[Shard, torch.Tensor], ...] = (("gate", gate), ("up", up))
        for shard, target in shards:
            own = _of(source, form, shard, expert, layer, descriptor)
            target[local, :, 0].copy_(own[first : first + size])
        if descriptor.tp_rank == 0:
            words(w2)[local].copy_(_of(source, form, "down", expert, layer, descriptor))
    return PackedBiases(w13, w2, descriptor)


def unpack_biases(packed: PackedBiases, checkpoint: CheckpointFormat, layer: str = "") -> dict[str, torch.Tensor]:
    """Inverse of `pack_biases`: this rank's experts and slices under checkpoint names, in new memory."""
    form, of = checkpoint.companion("bias"), packed.descriptor
    order = of.order if of.w13_state == "kernel" else "w13"
    gate, up, *_ = split_gate_up(packed.w13_bias.unsqueeze(-1), order, of.intermediate_per_rank)
    if not form.fused:
        shards: dict[Shard, torch.Tensor] = {"gate": gate[..., 0], "up": up[..., 0], "down": packed.w2_bias}
        return {
            form.name_of(shard, expert, layer): shards[shard][local].clone()
            for local, expert in enumerate(of.local_experts)
            for shard in SHARDS
        }
    whole = torch.empty((*gate.shape[:1], 2 * gate.shape[1], 1), dtype=gate.dtype, device=gate.device)
    first, second = split_gate_up(whole, form.order, gate.shape[1])
    first.copy_(gate)
    second.copy_(up)
    return {form.name_of("gate", None, layer): whole[..., 0], form.name_of("down", None, layer): packed.w2_bias.clone()}


def _shapes(descriptor: LayoutDescriptor, form: CheckpointFormat, layer: str) -> dict[str, tuple[int, ...]]:
    """What has to come, for the experts that are here."""
    size, hidden, experts = descriptor.intermediate_size, descriptor.hidden_size, descriptor.num_experts
    if form.fused:
        names = form.name_of("gate", None, layer), form.name_of("down", None, layer)
        return {names[0]: (experts, 2 * size), names[1]: (experts, hidden)}
    return {
        form.name_of(shard, expert, layer): (hidden if shard == "down" else size,)
        for expert in descriptor.local_experts
        for shard in SHARDS
    }


def _check(source: Mapping[str, torch.Tensor], wanted: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> None:
    for name, shape in wanted.items():
        if name not in source:
            raise LayoutError(f"{name} {list(shape)} is missing: the experts of this layer have biases")
        found = source[name]
        if tuple(found.shape) != shape or found.dtype != dtype:
            raise LayoutError(
                f"{name} must be {dtype} {list(shape)} (uncut), found {found.dtype} {list(found.shape)}; nothing is "
                "converted here"
            )


def _of(
    source: Mapping[str, torch.Tensor],
    form: CheckpointFormat,
    shard: Shard,
    expert: int,
    layer: str,
    descriptor: LayoutDescriptor,
) -> torch.Tensor:
    """One shard's bias of one expert, uncut, as words."""
    found = words(source[form.name_of(shard, None if form.fused else expert, layer)])
    if not form.fused:
        return found
    if shard == "down":
        return found[expert]
    gate, up = split_gate_up(found[expert].unsqueeze(-1), form.order, descriptor.intermediate_size)
    return (gate if shard == "gate" else up)[:, 0]
