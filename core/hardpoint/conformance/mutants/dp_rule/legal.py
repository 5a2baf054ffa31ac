"""Different and right."""

from __future__ import annotations

from dataclasses import replace

import torch

from hardpoint.conformance.mutant import LegalVariant
from hardpoint.conformance.mutants.dp_rule._plant import (
    Edit,
    Step,
    as_if,
    edited,
    legal_variant,
    with_padded,
)
from hardpoint.dp import DpPlan, DpRule

always_uniform = legal_variant("always-uniform", "All ranks have one count in every step.", uniform_when="always")
multiple_of_eight = legal_variant("multiple-of-eight", "Counts are padded to multiples of eight.", multiple_of=8)
multiple_of_tp = legal_variant("multiple-of-tp", "Counts are multiples of the tensor-parallel size.", multiple_of="tp")
ragged = legal_variant(
    "ragged", "Counts are never made equal; this backend's collectives take them ragged.",
    pad_to="none", uniform_when="never",
)  # fmt: skip
graphs_only = legal_variant(
    "equal-in-graphs-only", "Counts are made equal in graph modes, and ragged collectives serve the eager one.",
    pad_to="none", uniform_when="graph",
)  # fmt: skip


def _legal_edit(name: str, statement: str, edit: Edit) -> LegalVariant:
    return LegalVariant(f"dp_rule.{name}", "dp_rule", statement, edited(edit))


more_padding = _legal_edit(
    "more-padding",
    "Counts are padded to a power of two on top, as capture sizes are: more than is needed, and the same everywhere.",
    lambda plan, step, rule: with_padded(
        plan, [rule.multiple(step.tp) << (count - 1).bit_length() for count in plan.num_padded_tokens]
    ),
)


def _dummy_everywhere(plan: DpPlan, step: Step, rule: DpRule) -> DpPlan:
    if plan.runs:
        return plan
    count = len(step.tokens)
    return replace(plan, num_padded_tokens=(rule.multiple(step.tp),) * count, dummy_forward=(True,) * count)


dummy_everywhere = _legal_edit(
    "dummy-everywhere", "When no rank has a token all run a dummy step together.", _dummy_everywhere
)


class _Copying(DpPlan):
    def pad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        more = super().pad(x, rank).shape[0] - x.shape[0]
        return torch.cat([x, torch.zeros((more, *x.shape[1:]), dtype=x.dtype, device=x.device)])

    def unpad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        return super().unpad(x, rank).clone()


copies = _legal_edit("copies", "Padding concatenates, and unpadding copies.", as_if(_Copying))
