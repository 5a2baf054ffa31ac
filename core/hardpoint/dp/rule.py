"""`DpRule`: how data-parallel ranks agree on token counts. Backends differ in data only.

Why it exists (FR4): with expert parallelism every rank joins every MoE collective. Ranks that bring different token
counts hang there on some libraries, a rank without tokens that stays out hangs the others, and a padded count that is
taken for the actual one turns padding rows into tokens that nobody wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import IntEnum
from functools import lru_cache
from typing import Literal, get_args

from hardpoint.dp.plan import DpPlan
from hardpoint.errors import DpError

PadTo = Literal["max", "none"]
UniformWhen = Literal["graph", "ep", "always", "never"]


class GraphMode(IntEnum):
    """How a step runs; the numbers order the modes as vLLM's `CUDAGraphMode` does."""

    NONE = 0
    PIECEWISE = 1
    FULL = 2


def synced_mode(modes: Sequence[GraphMode]) -> GraphMode:
    """The mode that all ranks run in, from the one that each would like: the least of them.

    A rank that cannot replay a graph makes the step eager everywhere. Every decision about padding takes this mode,
    never the local one: ranks that decide by their own mode disagree about shapes.
    """
    if not modes:
        raise DpError("the mode of a step needs the modes of its data-parallel ranks, got none")
    return min(GraphMode(mode) for mode in modes)


@dataclass(frozen=True)
class DpRule:
    """The rule of one backend, as data, and the pure function `plan` over it.

    Attributes:
        pad_to: what happens when nothing demands equal counts: ``"max"`` pads every rank to the largest all the same,
            ``"none"`` leaves each at its own count (the collectives then have to be ragged).
        multiple_of: every padded count is a multiple of this; ``"tp"`` is the tensor-parallel size, which sequence
            parallelism and reduce_scatter need.
        uniform_when: what demands equal counts on all ranks: ``"graph"`` a synced graph mode, ``"ep"`` that or expert
            parallelism, ``"always"``, ``"never"``. It overrides `pad_to`.
        barrier_before_moe: the ranks of an expert-parallel group meet on the host before each MoE collective, except in
            a capture. For libraries whose collectives hang when a rank enters late.
        async_scheduling: the scheduler may run a step ahead of the device with experts spread over data-parallel ranks.
            False where the padded count of a step must be known before the next one is scheduled.
        reasons: field name -> why this backend states it, for people; not part of the rule (not compared).

    A rank without tokens always takes part, with a dummy forward over padding; only when no rank has any does none run.
    """

    pad_to: PadTo = "max"
    multiple_of: int | Literal["tp"] = 1
    uniform_when: UniformWhen = "ep"
    barrier_before_moe: bool = False
    async_scheduling: bool = True
    reasons: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if self.pad_to not in get_args(PadTo):
            raise DpError(f"DpRule.pad_to must be one of {', '.join(get_args(PadTo))}, got {self.pad_to!r}")
        if self.uniform_when not in get_args(UniformWhen):
            raise DpError(
                f"DpRule.uniform_when must be one of {', '.join(get_args(UniformWhen))}, got {self.uniform_when!r}"
            )
        if self.multiple_of != "tp" and (not isinstance(self.multiple_of, int) or self.multiple_of < 1):
            raise DpError(f"DpRule.multiple_of must be 'tp' or an integer of at least 1, got {self.multiple_of!r}")
        unknown = sorted(set(self.reasons) - {each.name for each in fields(self) if each.name != "reasons"})
        if unknown:
            raise DpError(f"DpRule.reasons explains {', '.join(unknown)}, which is no field of a rule")

    def barrier(self, expert_parallel: bool, capturing: bool = False) -> bool:
        """Whether the ranks meet before a MoE collective; never in a capture, where the host must not wait."""
        return self.barrier_before_moe and expert_parallel and not capturing

    def as_data(self) -> dict[str, str | int | bool]:
        """The rule without its reasons: what ranks compare to be sure that they plan by the same one."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "reasons"}

    def uniform(self, mode: GraphMode, expert_parallel: bool) -> bool:
        """Whether all ranks of the step get the same padded count. `mode` is the synced one."""
        graph = mode is not GraphMode.NONE
        demanded = {
            "graph": graph,
            "ep": graph or expert_parallel,
            "always": True,
            "never": False,
        }[self.uniform_when]
        return demanded or self.pad_to == "max"

    def multiple(self, tp: int) -> int:
        """What padded counts are a multiple of, for tensor-parallel size `tp`."""
        return tp if self.multiple_of == "tp" else self.multiple_of

    def plan(
        self,
        tokens_per_rank: Sequence[int],
        tp: int = 1,
        synced_mode: GraphMode | int = GraphMode.NONE,
        expert_parallel: bool = False,
    ) -> DpPlan:
        """Padded counts of one step. Pure: the same arguments give the same plan on every rank.

        Args:
            tokens_per_rank: actual tokens of each data-parallel rank, the end of its `query_start_loc`.
            tp: tensor-parallel size.
            synced_mode: mode of the step after all ranks agreed, see `synced_mode`.
            expert_parallel: experts are spread over the ranks.

        Raises:
            DpError: no ranks, a negative count, or a tensor-parallel size below 1.
        """
        tokens = tuple(map(int, tokens_per_rank))
        if not tokens:
            raise DpError("a plan needs the token count of every data-parallel rank, got none")
        if tp < 1:
            raise DpError(f"the tensor-parallel size must be at least 1, got {tp}")
        for rank, count in enumerate(tokens):
            if count < 0:
                raise DpError(f"data-parallel rank {rank} brings {count} tokens; a count is 0 or more")
        return _planned(self, tokens, tp, GraphMode(synced_mode), expert_parallel)


@lru_cache(maxsize=4096)
def _planned(rule: DpRule, tokens: tuple[int, ...], tp: int, mode: GraphMode, expert_parallel: bool) -> DpPlan:
    """`DpRule.plan` of checked arguments. Kept: while ranks decode, step after step brings the same counts."""
    multiple = rule.multiple(tp)
    if not any(tokens):
        padded = (0,) * len(tokens)
    elif rule.uniform(mode, expert_parallel):
        padded = (_round_up(max(tokens), multiple),) * len(tokens)
    else:
        # A rank without tokens still runs, and there is nothing shorter than one token (or one multiple) to run.
        padded = tuple(_round_up(max(count, 1), multiple) for count in tokens)
    dummy = tuple(count == 0 and rows > 0 for count, rows in zip(tokens, padded, strict=True))
    return DpPlan(num_actual_tokens=tokens, num_padded_tokens=padded, dummy_forward=dummy)


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
