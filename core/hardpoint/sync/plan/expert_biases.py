"""`ExpertBiases`: the biases of one layer's experts, which lie beside the weights in their order (gpt-oss)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from hardpoint.moe import GPT_OSS, CheckpointFormat, LayoutDescriptor
from hardpoint.sync.plan.coordinates import Coordinates
from hardpoint.sync.plan.destination import Destination, Part
from hardpoint.sync.plan.experts import Experts
from hardpoint.sync.plan.rule import Place
from hardpoint.sync.plan.strides import contiguous


@dataclass(frozen=True)
class ExpertBiases:
    """`w13_bias` ``[E, 2 * I_tp]`` and `w2_bias` ``[E, H]`` of one layer.

    `w13_bias` is cut and ordered as `w13_weight`. What `w2_bias` is added to is summed over tensor-parallel ranks, so
    rank 0 alone has it and the others have zeros, as in vLLM (0.32, gpt_oss.py, `_load_expert_bias`).

    Attributes:
        layer, layout, expert_maps, cut_with_experts, place: see `Experts`; of the layout's own dtype and packing, which
            are the weights', nothing is used.
        checkpoint: format of the weights; the biases' names are its ``bias`` companion's.
        dtype: of the biases.
        w13, w2: names of the parameters in the serving model.
    """

    by_experts: ClassVar[bool] = True

    layer: str
    layout: LayoutDescriptor
    checkpoint: CheckpointFormat = GPT_OSS
    dtype: torch.dtype = torch.bfloat16
    expert_maps: tuple[tuple[int, ...], ...] | None = None
    cut_with_experts: bool = False
    w13: str = ""
    w2: str = ""
    place: Place = "every"

    def destinations(self, at: Coordinates) -> Iterator[Destination]:
        """See `Rule.destinations`."""
        # A bias is a matrix with one column, of which the rule for matrices says all but the shape.
        column = replace(self.layout, hidden_size=1, values_per_element=1, dtype=self.dtype, axes="[E,N,K]")
        form = replace(self.checkpoint.companion("bias"), axes="[E,N,K]")
        weights = Experts(self.layer, column, form, self.expert_maps, self.cut_with_experts, place=self.place)
        w13, w2 = weights.destinations(at)
        name = self.w13 or f"{self.layer}.experts.w13_bias"
        parts = tuple(_without_column(part, len(part.sizes) - 1) for part in w13.parts)
        zeros = tuple((lows[:-1], sizes[:-1]) for lows, sizes in w13.zeros)
        yield replace(
            w13,
            parameter=name,
            shape=w13.shape[:-1],
            grid=w13.grid[:-1],
            strides=w13.strides[:-1],
            parts=parts,
            zeros=zeros,
        )
        yield self._down(w2, weights.placed(at))

    def _down(self, like: Destination, placed: LayoutDescriptor) -> Destination:
        """`w2_bias`; experts and names are those of `like`, the matrix ``[E, 1, I_tp]``."""
        hidden, fused = self.layout.hidden_size, self.checkpoint.fused
        grid = (len(placed.local_experts), hidden)
        whole = (placed.num_experts, hidden) if fused else (hidden,)
        strides = (hidden, 1)
        parts, zeros = [], []
        for part in like.parts:
            first = placed.local_experts[part.lows[0]] if fused else 0
            lows, sizes = (part.lows[0], 0), (part.sizes[0], hidden)
            parts.append(Part(part.tensors, whole, part.form, first * hidden, strides, lows, sizes))
        if placed.tp_rank and grid[0]:
            parts, zeros = [], [((0, 0), grid)]
        name = self.w2 or f"{self.layer}.experts.w2_bias"
        return Destination(name, like.dtype, grid, grid, contiguous(grid), tuple(parts), tuple(zeros))


def _without_column(part: Part, axis: int) -> Part:
    """`part` of a tensor whose last axis, of one element, is not there."""
    return part._replace(
        shape=part.shape[:-1],
        strides=part.strides[:axis],
        lows=part.lows[:axis],
        sizes=part.sizes[:axis],
    )
