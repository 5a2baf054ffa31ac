"""How a fault is planted in a rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from hardpoint.backend import Backend
from hardpoint.conformance.mutant import LegalVariant, Mutant
from hardpoint.conformance.mutants import _proxy
from hardpoint.dp import DpPlan, DpRule, GraphMode


@dataclass(frozen=True)
class Step:
    """Arguments of one plan."""

    tokens: tuple[int, ...]
    tp: int
    mode: GraphMode
    expert_parallel: bool


Edit = Callable[[DpPlan, Step, DpRule], DpPlan]


def edited(edit: Edit, *, alone: bool = False, **data: Any) -> Callable[[Backend], Backend]:
    """The backend's rule with `data` changed, whose plans pass through `edit`; `alone`: nothing is planned before."""

    def mutate(backend: Backend) -> Backend:
        rule = replace(backend.dp_rule, **data)

        def plan(
            tokens_per_rank: Sequence[int],
            tp: int = 1,
            synced_mode: GraphMode | int = GraphMode.NONE,
            expert_parallel: bool = False,
        ) -> DpPlan:
            step = Step(tuple(tokens_per_rank), tp, GraphMode(synced_mode), expert_parallel)
            made = DpPlan((), (), ()) if alone else rule.plan(step.tokens, tp, synced_mode, expert_parallel)
            return edit(made, step, rule)

        changed: Any = _proxy.Changed(rule, plan=plan)
        return replace(backend, dp_rule=changed)

    return mutate


def plant(name: str, law: str, statement: str, edit: Edit, *, alone: bool = False, **data: Any) -> Mutant:
    return Mutant(f"dp_rule.{name}", f"dp_rule.{law}", "dp_rule", statement, edited(edit, alone=alone, **data))


def legal_variant(name: str, statement: str, **data: Any) -> LegalVariant:
    return LegalVariant(
        f"dp_rule.{name}",
        "dp_rule",
        statement,
        lambda backend: replace(backend, dp_rule=replace(backend.dp_rule, **data)),
    )


def rounded_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def with_padded(plan: DpPlan, counts: Sequence[int]) -> DpPlan:
    """`plan` with other padded counts; a plan in which nobody runs stays as it is."""
    return replace(plan, num_padded_tokens=tuple(counts)) if plan.runs else plan


def own_counts_of(step: Step, rule: DpRule) -> tuple[int, ...]:
    """Each rank's own count, rounded up."""
    return tuple(rounded_up(max(count, 1), rule.multiple(step.tp)) for count in step.tokens)


def as_if(kind: type[DpPlan]) -> Edit:
    """Plans with the same counts and the behaviour of `kind`."""
    return lambda plan, step, rule: kind(**{field.name: getattr(plan, field.name) for field in fields(DpPlan)})
