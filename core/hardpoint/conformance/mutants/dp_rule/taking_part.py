"""Ranks that stay out, plans that are not pure, ranks that do not meet."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from typing import Any

import torch

from hardpoint.backend import Backend
from hardpoint.conformance.mutant import Mutant
from hardpoint.conformance.mutants.dp_rule._plant import (
    Step,
    as_if,
    edited,
    plant,
    rounded_up,
    with_padded,
)
from hardpoint.dp import DpPlan, DpRule

# -- ranks without tokens ------------------------------------------------------------------------------------------


def _idle(plan: DpPlan, step: Step, rule: DpRule) -> DpPlan:
    counts = zip(plan.num_padded_tokens, step.tokens, strict=True)
    return with_padded(plan, [padded if tokens else 0 for padded, tokens in counts])


stays_out = plant(
    "idle-rank-stays-out",
    "ranks-without-tokens-take-part",
    "A rank without tokens brings no rows and skips the step, in which the others wait for it.",
    _idle,
)
stays_out_ragged = plant(
    "idle-rank-brings-nothing",
    "ranks-without-tokens-take-part",
    "Where counts may differ a rank without tokens brings none.",
    lambda plan, step, rule: plan if rule.uniform(step.mode, step.expert_parallel) else _idle(plan, step, rule),
    pad_to="none",
)
no_dummy = plant(
    "no-dummy-forward",
    "ranks-without-tokens-take-part",
    "A rank without tokens has rows, and is not told to run a dummy forward over them.",
    lambda plan, step, rule: replace(plan, dummy_forward=(False,) * len(step.tokens)),
)
all_dummy = plant(
    "padded-rank-runs-dummy",
    "ranks-without-tokens-take-part",
    "A rank that is padded runs a dummy forward instead of its tokens.",
    lambda plan, step, rule: replace(
        plan,
        dummy_forward=tuple(
            padded > tokens for padded, tokens in zip(plan.num_padded_tokens, step.tokens, strict=True)
        ),
    ),
)
first_rank_alone = plant(
    "first-rank-runs-alone",
    "ranks-without-tokens-take-part",
    "When no rank has a token the first one runs a dummy step all the same, alone.",
    lambda plan, step, rule: (
        plan
        if plan.runs
        else replace(
            plan,
            num_padded_tokens=(rule.multiple(step.tp), *plan.num_padded_tokens[1:]),
            dummy_forward=(True, *plan.dummy_forward[1:]),
        )
    ),
)


# -- purity --------------------------------------------------------------------------------------------------------


def _never_shrinks(backend: Backend) -> Backend:
    largest = [0]

    def edit(plan: DpPlan, step: Step, rule: DpRule) -> DpPlan:
        largest[0] = max(largest[0], *plan.num_padded_tokens)
        return with_padded(plan, [rounded_up(largest[0], rule.multiple(step.tp))] * len(step.tokens))

    return edited(edit)(backend)


never_shrinks = Mutant(
    "dp_rule.never-shrinks",
    "dp_rule.plans-are-pure",
    "dp_rule",
    "Counts are padded to the largest batch that this process has seen; a rank that restarted has seen another.",
    _never_shrinks,
)


def _by_chance(plan: DpPlan, step: Step, rule: DpRule) -> DpPlan:
    more = random.SystemRandom().randrange(4) * rule.multiple(step.tp)
    return with_padded(plan, [count + more for count in plan.num_padded_tokens])


by_chance = plant(
    "random-padding",
    "plans-are-pure",
    "A random amount of padding is added, another one in every process.",
    _by_chance,
)
by_rank_order = plant(
    "first-rank-decides",
    "plans-are-pure",
    "Padding depends on what the first rank brings.",
    lambda plan, step, rule: with_padded(
        plan, [count + step.tokens[0] % 3 * rule.multiple(step.tp) for count in plan.num_padded_tokens]
    ),
)


def _by_thread(backend: Backend) -> Backend:
    def edit(plan: DpPlan, step: Step, rule: DpRule) -> DpPlan:
        more = rule.multiple(step.tp) * int(threading.current_thread() is not first)
        return with_padded(plan, [count + more for count in plan.num_padded_tokens])

    first = threading.current_thread()
    return edited(edit)(backend)


by_thread = Mutant(
    "dp_rule.thread-decides",
    "dp_rule.plans-are-pure",
    "dp_rule",
    "Padding depends on the thread that asks.",
    _by_thread,
)


# -- ranks meet ----------------------------------------------------------------------------------------------------


def _rank_decides(backend: Backend) -> Backend:
    rank = [0]

    def factory(rendezvous: Any) -> Any:
        rank[0] = rendezvous.rank
        return backend.communicator(rendezvous)

    def edit(plan: DpPlan, step: Step, rule: DpRule) -> DpPlan:
        more = rank[0] * rule.multiple(step.tp)
        return with_padded(plan, [count + more for count in plan.num_padded_tokens])

    return edited(edit)(replace(backend, communicator=factory))


rank_decides = Mutant(
    "dp_rule.rank-decides",
    "dp_rule.ranks-meet",
    "dp_rule",
    "Each rank plans one count for all, but not the same one: padding differs between ranks.",
    _rank_decides,
)


class _Unpadded(DpPlan):
    def pad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        super().pad(x, rank)
        return x.clone()


never_padded = plant(
    "planned-and-not-padded",
    "ranks-meet",
    "Counts are planned and nobody pads: ranks bring their own counts into the collective.",
    as_if(_Unpadded),
)
