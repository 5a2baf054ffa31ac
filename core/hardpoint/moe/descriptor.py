"""`LayoutDescriptor`: everything that must be known to find one weight of one expert in `w13_weight` and `w2_weight`.

It is declared when a buffer is made and travels with it. Nothing here is ever guessed from a shape: with
``2 * I_tp == H`` the two states of `w13_weight` have the same shape, with ``I_tp == H`` those of `w2_weight` do, and
FR5 is what happened then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch

from hardpoint.errors import LayoutError

Order = Literal["w13", "w31", "interleaved"]
Axes = Literal["[E,N,K]", "[E,K,N]"]
State = Literal["model", "kernel"]
Shard = Literal["gate", "up", "down"]
SHARDS: tuple[Shard, ...] = ("gate", "up", "down")


@dataclass(frozen=True)
class LayoutDescriptor:
    """Layout of one MoE layer's experts on one rank.

    N is what a matrix produces and K what it consumes: for `w13_weight` N is ``2 * I_tp`` (gate and up) and K is H, for
    `w2_weight` N is H and K is ``I_tp``.

    Attributes:
        num_experts: of the whole model's layer, E.
        hidden_size: H, in values.
        intermediate_size: I of one expert over all tensor-parallel ranks, in values.
        dtype: of the storage.
        order: of gate and up along N: ``w13`` gate first (vLLM), ``w31`` up first (FlashInfer CUTLASS), ``interleaved``
            gate on even rows and up on odd ones (gpt-oss).
        axes: of both tensors: ``[E,N,K]`` (vLLM, CUDA, checkpoints) or transposed ``[E,K,N]`` (Ascend, XPU).
        padded_intermediate: values that I_tp takes in storage, gate and up each; the rest is zero. None for no padding.
        values_per_element: values that share one storage element along K: 1, or 2 for int4 as bytes (dtype uint8).
            Elements move whole, so sizes that are cut along K must be multiples of it.
        tp_rank, tp_size: this rank's slice of I. Gate and up are cut separately.
        ep_rank, ep_size: this rank's share of the experts.
        expert_map: ``[E]``, local index of each global expert, -1 for "not here". None for vLLM's linear placement:
            consecutive experts, the remainder to the first ranks.
        w13_state, w2_state: what each storage holds now: ``model`` is ``[E,N,K]``, w13, unpadded, as model code creates
            it and loaders write it; ``kernel`` is what this descriptor says.
        format: encoding of the storage. ``dense`` has the meaning above; a backend may name private ones (``NZ``).
    """

    num_experts: int
    hidden_size: int
    intermediate_size: int
    dtype: torch.dtype = torch.bfloat16
    order: Order = "w13"
    axes: Axes = "[E,N,K]"
    padded_intermediate: int | None = None
    values_per_element: int = 1
    tp_rank: int = 0
    tp_size: int = 1
    ep_rank: int = 0
    ep_size: int = 1
    expert_map: tuple[int, ...] | None = None
    w13_state: State = "kernel"
    w2_state: State = "kernel"
    format: str = "dense"

    def __post_init__(self) -> None:
        _one_of("order", self.order, get_args(Order))
        _one_of("axes", self.axes, get_args(Axes))
        _one_of("w13_state", self.w13_state, get_args(State))
        _one_of("w2_state", self.w2_state, get_args(State))
        for name in (
            "num_experts",
            "hidden_size",
            "intermediate_size",
            "tp_size",
            "ep_size",
            "values_per_element",
        ):
            if getattr(self, name) < 1:
                raise LayoutError(f"{name} must be at least 1, got {getattr(self, name)}")
        for kind in ("tp", "ep"):
            rank, size = getattr(self, f"{kind}_rank"), getattr(self, f"{kind}_size")
            if not 0 <= rank < size:
                raise LayoutError(f"{kind}_rank must be in 0..{size - 1} for {kind}_size {size}, got {rank}")
        if self.intermediate_size % self.tp_size:
            raise LayoutError(
                f"intermediate_size {self.intermediate_size} cannot be cut into tp_size {self.tp_size} equal slices"
            )
        if self.padded_intermediate is not None and self.padded_intermediate < self.intermediate_per_rank:
            raise LayoutError(
                f"padded_intermediate {self.padded_intermediate} is less than the {self.intermediate_per_rank} values "
                f"of intermediate_size {self.intermediate_size} on each of {self.tp_size} tensor-parallel ranks"
            )
        for name, size in (
            ("hidden_size", self.hidden_size),
            ("intermediate_size per tensor-parallel rank", self.intermediate_per_rank),
            ("padded_intermediate", self.padded_intermediate or 0),
        ):
            if size % self.values_per_element:
                raise LayoutError(
                    f"{name} {size} is not a multiple of the {self.values_per_element} values in one storage element"
                )
        if self.expert_map is not None:
            _check_expert_map(self.expert_map, self.num_experts)

    @property
    def intermediate_per_rank(self) -> int:
        """I_tp, in values, without padding."""
        return self.intermediate_size // self.tp_size

    @property
    def expert_to_local(self) -> tuple[int, ...]:
        """``[E]``, local index of each global expert, -1 for "not here"; the linear placement if none was given."""
        if self.expert_map is not None:
            return self.expert_map
        return linear_expert_map(self.num_experts, self.ep_rank, self.ep_size)

    @property
    def local_experts(self) -> tuple[int, ...]:
        """Global expert of each local index."""
        here = [(local, expert) for expert, local in enumerate(self.expert_to_local) if local >= 0]
        return tuple(expert for _, expert in sorted(here))

    @property
    def w13_shape(self) -> tuple[int, int, int]:
        """Shape of `w13_weight` in its present state."""
        return self._shape(2 * self._padded("w13"), self.hidden_size // self.values_per_element, self.w13_state)

    @property
    def w2_shape(self) -> tuple[int, int, int]:
        """Shape of `w2_weight` in its present state."""
        return self._shape(self.hidden_size, self._padded("w2") // self.values_per_element, self.w2_state)

    def in_state(self, state: State) -> LayoutDescriptor:
        """The same layout with both storages in `state`."""
        return replace(self, w13_state=state, w2_state=state)

    def _padded(self, parameter: Literal["w13", "w2"]) -> int:
        state = self.w13_state if parameter == "w13" else self.w2_state
        if state == "model" or self.padded_intermediate is None:
            return self.intermediate_per_rank
        return self.padded_intermediate

    def _shape(self, n: int, k: int, state: State) -> tuple[int, int, int]:
        experts = len(self.local_experts)
        return (experts, k, n) if state == "kernel" and self.axes == "[E,K,N]" else (experts, n, k)


def linear_expert_map(num_experts: int, ep_rank: int, ep_size: int) -> tuple[int, ...]:
    """``[num_experts]``: vLLM's linear placement (fused_moe/layer.py, determine_expert_map), -1 for "not here"."""
    each, more = divmod(num_experts, ep_size)
    first = ep_rank * each + min(ep_rank, more)
    count = each + (ep_rank < more)
    return tuple(expert - first if first <= expert < first + count else -1 for expert in range(num_experts))


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise LayoutError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def _check_expert_map(expert_map: tuple[int, ...], num_experts: int) -> None:
    if len(expert_map) != num_experts:
        raise LayoutError(
            f"the expert map must have one entry for each of {num_experts} experts, got {len(expert_map)}"
        )
    owner: dict[int, int] = {}
    for expert, local in enumerate(expert_map):
        if local < -1:
            raise LayoutError(
                f"the expert map sends expert {expert} to {local}; -1 means not here, nothing is below it"
            )
        if local >= 0 and owner.setdefault(local, expert) != expert:
            raise LayoutError(
                f"the expert map sends experts {owner[local]} and {expert} to local expert {local}: its elements would "
                f"be written twice"
            )
    absent = sorted(set(range(max(owner, default=-1) + 1)) - set(owner))
    if absent:
        raise LayoutError(
            f"the expert map leaves local experts {absent} without a global one: nothing would write them"
        )
