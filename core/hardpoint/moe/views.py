"""The layout transform, as views: gate, up and down of every expert on the storage itself, in checkpoint orientation.

A copy into a view is the transform and a copy out of it the inverse, so that both are the same bijection, nothing is
computed, and a storage keeps its address. Elements move as integers of the same width: bits, NaN payloads included.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hardpoint.moe.descriptor import Axes, Order, Shard
from hardpoint.moe.packed import PackedExperts

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class ExpertViews:
    """Views on storage, E_local experts, I_tp and H in storage elements.

    Attributes:
        gate, up: ``[E, I_tp, H]``.
        down: ``[E, H, I_tp]``.
        padding: what holds no weight.
    """

    gate: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor
    padding: tuple[torch.Tensor, ...] = ()

    def shard(self, shard: Shard) -> torch.Tensor:
        return {"gate": self.gate, "up": self.up, "down": self.down}[shard]


def words(tensor: torch.Tensor) -> torch.Tensor:
    """The same elements as integers of the same width; shares the storage."""
    return tensor.view(_WORDS[tensor.element_size()])


def split_gate_up(canonical: torch.Tensor, order: Order, size: int) -> tuple[torch.Tensor, ...]:
    """Views ``(gate, up, *padding)`` on `canonical` ``[..., 2 * padded, K]``; gate and up have `size` rows each."""
    padded = canonical.shape[-2] // 2
    if order == "interleaved":
        first, second = canonical[..., 0::2, :], canonical[..., 1::2, :]
    else:
        first, second = canonical.narrow(-2, 0, padded), canonical.narrow(-2, padded, padded)
        if order == "w31":
            first, second = second, first
    weights = (first.narrow(-2, 0, size), second.narrow(-2, 0, size))
    if size == padded:
        return weights
    return (*weights, first.narrow(-2, size, padded - size), second.narrow(-2, size, padded - size))


def canonical(tensor: torch.Tensor, axes: Axes) -> torch.Tensor:
    """`tensor` seen as ``[..., N, K]``."""
    return tensor if axes == "[E,N,K]" else tensor.transpose(-2, -1)


def expert_views(packed: PackedExperts) -> ExpertViews:
    """Where each shard is, as the descriptor says; never by looking at a shape."""
    descriptor = packed.descriptor
    kernel13, kernel2 = descriptor.w13_state == "kernel", descriptor.w2_state == "kernel"
    w13 = canonical(words(packed.w13_weight), descriptor.axes if kernel13 else "[E,N,K]")
    w2 = canonical(words(packed.w2_weight), descriptor.axes if kernel2 else "[E,N,K]")
    rows = descriptor.intermediate_per_rank
    columns = rows // descriptor.values_per_element
    gate, up, *padding = split_gate_up(w13, descriptor.order if kernel13 else "w13", rows)
    if w2.shape[-1] != columns:
        padding.append(w2.narrow(-1, columns, w2.shape[-1] - columns))
    return ExpertViews(gate, up, w2.narrow(-1, 0, columns), tuple(padding))
