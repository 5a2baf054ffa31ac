"""What should be refused."""

from __future__ import annotations

import torch

from hardpoint.conformance.mutants.dp_rule._plant import (
    Step,
    as_if,
    plant,
)
from hardpoint.dp import DpPlan, DpRule
from hardpoint.errors import DpError


class _CutsToFit(DpPlan):
    def pad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        return super().pad(x[: self.num_actual_tokens[rank]], rank)


class _FillsUp(DpPlan):
    def pad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        actual = self.num_actual_tokens[rank]
        if x.shape[0] < actual:
            x = torch.cat([x, x.new_zeros((actual - x.shape[0], *x.shape[1:]))])
        return super().pad(x, rank)


class _RankFromTheEnd(DpPlan):
    def pad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        return super().pad(x[: self.num_actual_tokens[rank]], rank % self.world_size)


class _UnpadsAnything(DpPlan):
    def unpad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        return x[: self.num_actual_tokens[rank]]


class _UnpadsAnyGathered(DpPlan):
    def unpad_gathered(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[rows] for rows in self.slices])


class _OtherError(DpPlan):
    def pad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        try:
            return super().pad(x, rank)
        except DpError as error:
            raise RuntimeError(str(error)) from error


def _negative_is_zero(plan: DpPlan, step: Step, rule: DpRule) -> DpPlan:
    return rule.plan([max(count, 0) for count in step.tokens], step.tp, step.mode, step.expert_parallel)


def _no_ranks(plan: DpPlan, step: Step, rule: DpRule) -> DpPlan:
    if not step.tokens:
        return plan
    return rule.plan(step.tokens, step.tp, step.mode, step.expert_parallel)


def _no_tp(plan: DpPlan, step: Step, rule: DpRule) -> DpPlan:
    return rule.plan(step.tokens, max(step.tp, 1), step.mode, step.expert_parallel)


pad_cuts = plant("pad-cuts", "misfits-are-refused", "Rows too many are cut off without a word.", as_if(_CutsToFit))
pad_fills_up = plant(
    "pad-fills-up", "misfits-are-refused", "Tokens that are missing are taken for padding.", as_if(_FillsUp)
)
rank_from_the_end = plant(
    "rank-from-the-end", "misfits-are-refused", "Rank -1 is the last rank.", as_if(_RankFromTheEnd)
)
unpads_anything = plant(
    "unpads-anything", "misfits-are-refused", "A tensor of any length is unpadded.", as_if(_UnpadsAnything)
)
unpads_any_gathered = plant(
    "unpads-any-gathered", "misfits-are-refused", "A gathered tensor of any length is unpadded.",
    as_if(_UnpadsAnyGathered),
)  # fmt: skip
another_error = plant(
    "refuses-with-another-error", "misfits-are-refused", "A misfit raises RuntimeError.", as_if(_OtherError)
)
negative_is_zero = plant(
    "negative-count-is-zero",
    "misfits-are-refused",
    "A negative count becomes zero.",
    _negative_is_zero,
    alone=True,
)
no_ranks = plant(
    "no-ranks-planned", "misfits-are-refused", "A step without ranks gets an empty plan.", _no_ranks, alone=True
)
no_tp = plant(
    "no-tensor-parallel-size", "misfits-are-refused", "A tensor-parallel size of 0 is taken for 1.", _no_tp, alone=True
)
