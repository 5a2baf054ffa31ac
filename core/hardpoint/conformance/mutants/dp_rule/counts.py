"""Padded and actual counts that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hardpoint.conformance.mutants.dp_rule._plant import (
    Step,
    as_if,
    own_counts_of,
    plant,
    rounded_up,
    with_padded,
)
from hardpoint.dp import DpPlan, DpRule, GraphMode

# -- one count on all ranks ----------------------------------------------------------------------------------------


own_counts = plant(
    "own-counts",
    "same-count-on-all-ranks",
    "Every rank keeps its own count (FR4: 26 and 30), and the collectives of the experts hang.",
    lambda plan, step, rule: with_padded(plan, own_counts_of(step, rule)),
)
eager_unpadded = plant(
    "eager-unpadded",
    "same-count-on-all-ranks",
    "Counts are made equal in graph modes only, though experts are spread over the ranks in eager mode too (FR4).",
    lambda plan, step, rule: plan if step.mode is not GraphMode.NONE else with_padded(plan, own_counts_of(step, rule)),
)
piecewise_unpadded = plant(
    "piecewise-unpadded",
    "same-count-on-all-ranks",
    "Counts are made equal for whole graphs and left alone for piecewise ones.",
    lambda plan, step, rule: (
        plan if step.mode is not GraphMode.PIECEWISE else with_padded(plan, own_counts_of(step, rule))
    ),
)


def _local_mode(plan: DpPlan, step: Step, rule: DpRule) -> DpPlan:
    # Graphs were captured up to 16 tokens: a rank with more runs eagerly and, asking only itself, does not pad.
    own = own_counts_of(step, rule)
    counts = zip(plan.num_padded_tokens, own, step.tokens, strict=True)
    return with_padded(plan, [mine if tokens > 16 else padded for padded, mine, tokens in counts])


local_mode = plant(
    "local-mode-decides",
    "same-count-on-all-ranks",
    "A rank pads by its own graph mode instead of the synced one: one with a batch too large for its graphs does not.",
    _local_mode,
)
smallest = plant(
    "padded-to-the-smallest",
    "same-count-on-all-ranks",
    "All ranks get the count of the rank with the fewest tokens, and the others lose theirs.",
    lambda plan, step, rule: with_padded(plan, [min(own_counts_of(step, rule))] * len(step.tokens)),
)
average = plant(
    "padded-to-the-average",
    "same-count-on-all-ranks",
    "All ranks get the average count.",
    lambda plan, step, rule: with_padded(
        plan, [rounded_up(sum(step.tokens) // len(step.tokens), 1)] * len(step.tokens)
    ),
)
one_more_on_the_last = plant(
    "last-rank-rounded-alone",
    "same-count-on-all-ranks",
    "The last rank takes what is left over and has another count.",
    lambda plan, step, rule: with_padded(
        plan, [*plan.num_padded_tokens[:-1], plan.num_padded_tokens[-1] + rule.multiple(step.tp)]
    ),
)
idle_rank_one_row = plant(
    "idle-rank-brings-one-row",
    "same-count-on-all-ranks",
    "A rank without tokens brings one row of padding while the others bring more.",
    lambda plan, step, rule: with_padded(
        plan, [padded if tokens else 1 for padded, tokens in zip(plan.num_padded_tokens, step.tokens, strict=True)]
    ),
)


# -- multiples -----------------------------------------------------------------------------------------------------


def _uniform_or_own(step: Step, rule: DpRule, round_up: Callable[[int], int]) -> list[int]:
    if rule.uniform(step.mode, step.expert_parallel):
        return [round_up(max(step.tokens))] * len(step.tokens)
    return [round_up(max(count, 1)) for count in step.tokens]


not_a_multiple = plant(
    "largest-is-not-rounded",
    "multiples-hold",
    "Ranks are padded to the largest count, which need not be a multiple of the tensor-parallel size.",
    lambda plan, step, rule: with_padded(plan, _uniform_or_own(step, rule, lambda count: count)),
    multiple_of="tp",
)
power_of_two = plant(
    "powers-of-two",
    "multiples-hold",
    "Counts are rounded up to a power of two, whatever the tensor-parallel size is.",
    lambda plan, step, rule: with_padded(plan, _uniform_or_own(step, rule, lambda n: 1 << max(n - 1, 0).bit_length())),
    multiple_of="tp",
)
own_not_rounded = plant(
    "own-counts-not-rounded",
    "multiples-hold",
    "Counts are rounded where they are made equal, and left as they are where they are not.",
    lambda plan, step, rule: (
        plan
        if rule.uniform(step.mode, step.expert_parallel)
        else with_padded(plan, [max(count, 1) for count in step.tokens])
    ),
    multiple_of="tp",
    pad_to="none",
)
idle_not_rounded = plant(
    "idle-rank-not-rounded",
    "multiples-hold",
    "A rank without tokens brings one row, where four are the least that the kernels take.",
    lambda plan, step, rule: with_padded(
        plan, [padded if tokens else 1 for padded, tokens in zip(plan.num_padded_tokens, step.tokens, strict=True)]
    ),
    multiple_of=4,
    pad_to="none",
)
eager_not_rounded = plant(
    "eager-not-rounded",
    "multiples-hold",
    "Counts are rounded for graphs alone; sequence parallelism cuts eager batches as well.",
    lambda plan, step, rule: (
        plan if step.mode is not GraphMode.NONE else with_padded(plan, _uniform_or_own(step, rule, lambda count: count))
    ),
    multiple_of="tp",
)


# -- actual tokens -------------------------------------------------------------------------------------------------


padding_counts = plant(
    "padding-counts-as-tokens",
    "actual-tokens-end-query-start-loc",
    "num_actual_tokens is the padded count (FR4: 30 on rank 0, whose query_start_loc ends at 26).",
    lambda plan, step, rule: replace(plan, num_actual_tokens=plan.num_padded_tokens),
)
padding_counts_in_graphs = plant(
    "padding-counts-as-tokens-in-graphs",
    "actual-tokens-end-query-start-loc",
    "num_actual_tokens is the padded count where a whole graph is replayed.",
    lambda plan, step, rule: (
        replace(plan, num_actual_tokens=plan.num_padded_tokens) if step.mode is GraphMode.FULL else plan
    ),
)
largest_for_all = plant(
    "largest-count-for-all",
    "actual-tokens-end-query-start-loc",
    "Every rank is told the largest rank's tokens.",
    lambda plan, step, rule: replace(plan, num_actual_tokens=(max(step.tokens),) * len(step.tokens)),
)
dummy_token = plant(
    "dummy-row-counts-as-token",
    "actual-tokens-end-query-start-loc",
    "The dummy row of a rank without tokens counts as one.",
    lambda plan, step, rule: replace(
        plan,
        num_actual_tokens=tuple(
            max(count, int(dummy)) for count, dummy in zip(step.tokens, plan.dummy_forward, strict=True)
        ),
    ),
)


class _ActualOffsets(DpPlan):
    @property
    def slices(self) -> tuple[slice, ...]:
        starts = [sum(self.num_actual_tokens[:rank]) for rank in range(self.world_size)]
        return tuple(slice(start, start + actual) for start, actual in zip(starts, self.num_actual_tokens, strict=True))


class _PaddedSlices(DpPlan):
    @property
    def slices(self) -> tuple[slice, ...]:
        starts = [sum(self.num_padded_tokens[:rank]) for rank in range(self.world_size)]
        return tuple(slice(start, start + padded) for start, padded in zip(starts, self.num_padded_tokens, strict=True))


offsets_without_padding = plant(
    "offsets-without-padding",
    "actual-tokens-end-query-start-loc",
    "Where a rank's tokens are in the gathered tensor is counted without the padding of the ranks before it.",
    as_if(_ActualOffsets),
)
slices_hold_padding = plant(
    "slices-hold-padding",
    "actual-tokens-end-query-start-loc",
    "A rank's slice of the gathered tensor holds its padding too.",
    as_if(_PaddedSlices),
)
