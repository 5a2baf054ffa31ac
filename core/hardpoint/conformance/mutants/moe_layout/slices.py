"""Layouts that take the wrong slice or expert."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from hardpoint.conformance.mutants._moe import Layout, edited, mutant, shard_of
from hardpoint.conformance.mutants.moe_layout._parts import Tensors
from hardpoint.moe import (
    CheckpointFormat,
    LayoutDescriptor,
    PackedExperts,
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
