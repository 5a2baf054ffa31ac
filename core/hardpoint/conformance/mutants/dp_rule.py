"""Data-parallel padding with a fault, and padding that is different and right."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from hardpoint.backend import Backend
from hardpoint.conformance.mutant import LegalVariant, Mutant
from hardpoint.conformance.mutants import _proxy
from hardpoint.dp import DpPlan, DpRule, GraphMode
from hardpoint.errors import DpError


@dataclass(frozen=True)
class _Step:
    """Arguments of one plan."""

    tokens: tuple[int, ...]
    tp: int
    mode: GraphMode
    expert_parallel: bool


Edit = Callable[[DpPlan, _Step, DpRule], DpPlan]


def _edited(edit: Edit, *, alone: bool = False, **data: Any) -> Callable[[Backend], Backend]:
    """The backend's rule with `data` changed, whose plans pass through `edit`; `alone`: nothing is planned before."""

    def mutate(backend: Backend) -> Backend:
        rule = replace(backend.dp_rule, **data)

        def plan(
            tokens_per_rank: Sequence[int],
            tp: int = 1,
            synced_mode: GraphMode | int = GraphMode.NONE,
            expert_parallel: bool = False,
        ) -> DpPlan:
            step = _Step(tuple(tokens_per_rank), tp, GraphMode(synced_mode), expert_parallel)
            made = DpPlan((), (), ()) if alone else rule.plan(step.tokens, tp, synced_mode, expert_parallel)
            return edit(made, step, rule)

        changed: Any = _proxy.Changed(rule, plan=plan)
        return replace(backend, dp_rule=changed)

    return mutate


def _mutant(name: str, law: str, statement: str, edit: Edit, *, alone: bool = False, **data: Any) -> Mutant:
    return Mutant(f"dp_rule.{name}", f"dp_rule.{law}", "dp_rule", statement, _edited(edit, alone=alone, **data))


def _legal(name: str, statement: str, **data: Any) -> LegalVariant:
    return LegalVariant(
        f"dp_rule.{name}",
        "dp_rule",
        statement,
        lambda backend: replace(backend, dp_rule=replace(backend.dp_rule, **data)),
    )


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _padded(plan: DpPlan, counts: Sequence[int]) -> DpPlan:
    """`plan` with other padded counts; a plan in which nobody runs stays as it is."""
    return replace(plan, num_padded_tokens=tuple(counts)) if plan.runs else plan


def _own(step: _Step, rule: DpRule) -> tuple[int, ...]:
    """Each rank's own count, rounded up."""
    return tuple(_up(max(count, 1), rule.multiple(step.tp)) for count in step.tokens)


# -- one count on all ranks --------------------------------------------------------------------------------------------

own_counts = _mutant(
    "own-counts",
    "same-count-on-all-ranks",
    "Every rank keeps its own count (FR4: 26 and 30), and the collectives of the experts hang.",
    lambda plan, step, rule: _padded(plan, _own(step, rule)),
)
eager_unpadded = _mutant(
    "eager-unpadded",
    "same-count-on-all-ranks",
    "Counts are made equal in graph modes only, though experts are spread over the ranks in eager mode too (FR4).",
    lambda plan, step, rule: plan if step.mode is not GraphMode.NONE else _padded(plan, _own(step, rule)),
)
piecewise_unpadded = _mutant(
    "piecewise-unpadded",
    "same-count-on-all-ranks",
    "Counts are made equal for whole graphs and left alone for piecewise ones.",
    lambda plan, step, rule: plan if step.mode is not GraphMode.PIECEWISE else _padded(plan, _own(step, rule)),
)


def _local_mode(plan: DpPlan, step: _Step, rule: DpRule) -> DpPlan:
    # Graphs were captured up to 16 tokens: a rank with more runs eagerly and, asking only itself, does not pad.
    own = _own(step, rule)
    counts = zip(plan.num_padded_tokens, own, step.tokens, strict=True)
    return _padded(plan, [mine if tokens > 16 else padded for padded, mine, tokens in counts])


local_mode = _mutant(
    "local-mode-decides",
    "same-count-on-all-ranks",
    "A rank pads by its own graph mode instead of the synced one: one with a batch too large for its graphs does not.",
    _local_mode,
)
smallest = _mutant(
    "padded-to-the-smallest",
    "same-count-on-all-ranks",
    "All ranks get the count of the rank with the fewest tokens, and the others lose theirs.",
    lambda plan, step, rule: _padded(plan, [min(_own(step, rule))] * len(step.tokens)),
)
average = _mutant(
    "padded-to-the-average",
    "same-count-on-all-ranks",
    "All ranks get the average count.",
    lambda plan, step, rule: _padded(plan, [_up(sum(step.tokens) // len(step.tokens), 1)] * len(step.tokens)),
)
one_more_on_the_last = _mutant(
    "last-rank-rounded-alone",
    "same-count-on-all-ranks",
    "The last rank takes what is left over and has another count.",
    lambda plan, step, rule: _padded(
        plan, [*plan.num_padded_tokens[:-1], plan.num_padded_tokens[-1] + rule.multiple(step.tp)]
    ),
)
idle_rank_one_row = _mutant(
    "idle-rank-brings-one-row",
    "same-count-on-all-ranks",
    "A rank without tokens brings one row of padding while the others bring more.",
    lambda plan, step, rule: _padded(
        plan, [padded if tokens else 1 for padded, tokens in zip(plan.num_padded_tokens, step.tokens, strict=True)]
    ),
)

# -- multiples ---------------------------------------------------------------------------------------------------------


def _uniform_or_own(step: _Step, rule: DpRule, round_up: Callable[[int], int]) -> list[int]:
    if rule.uniform(step.mode, step.expert_parallel):
        return [round_up(max(step.tokens))] * len(step.tokens)
    return [round_up(max(count, 1)) for count in step.tokens]


not_a_multiple = _mutant(
    "largest-is-not-rounded",
    "multiples-hold",
    "Ranks are padded to the largest count, which need not be a multiple of the tensor-parallel size.",
    lambda plan, step, rule: _padded(plan, _uniform_or_own(step, rule, lambda count: count)),
    multiple_of="tp",
)
power_of_two = _mutant(
    "powers-of-two",
    "multiples-hold",
    "Counts are rounded up to a power of two, whatever the tensor-parallel size is.",
    lambda plan, step, rule: _padded(plan, _uniform_or_own(step, rule, lambda n: 1 << max(n - 1, 0).bit_length())),
    multiple_of="tp",
)
own_not_rounded = _mutant(
    "own-counts-not-rounded",
    "multiples-hold",
    "Counts are rounded where they are made equal, and left as they are where they are not.",
    lambda plan, step, rule: (
        plan
        if rule.uniform(step.mode, step.expert_parallel)
        else _padded(plan, [max(count, 1) for count in step.tokens])
    ),
    multiple_of="tp",
    pad_to="none",
)
idle_not_rounded = _mutant(
    "idle-rank-not-rounded",
    "multiples-hold",
    "A rank without tokens brings one row, where four are the least that the kernels take.",
    lambda plan, step, rule: _padded(
        plan, [padded if tokens else 1 for padded, tokens in zip(plan.num_padded_tokens, step.tokens, strict=True)]
    ),
    multiple_of=4,
    pad_to="none",
)
eager_not_rounded = _mutant(
    "eager-not-rounded",
    "multiples-hold",
    "Counts are rounded for graphs alone; sequence parallelism cuts eager batches as well.",
    lambda plan, step, rule: (
        plan if step.mode is not GraphMode.NONE else _padded(plan, _uniform_or_own(step, rule, lambda count: count))
    ),
    multiple_of="tp",
)

# -- actual tokens -----------------------------------------------------------------------------------------------------

padding_counts = _mutant(
    "padding-counts-as-tokens",
    "actual-tokens-end-query-start-loc",
    "num_actual_tokens is the padded count (FR4: 30 on rank 0, whose query_start_loc ends at 26).",
    lambda plan, step, rule: replace(plan, num_actual_tokens=plan.num_padded_tokens),
)
padding_counts_in_graphs = _mutant(
    "padding-counts-as-tokens-in-graphs",
    "actual-tokens-end-query-start-loc",
    "num_actual_tokens is the padded count where a whole graph is replayed.",
    lambda plan, step, rule: (
        replace(plan, num_actual_tokens=plan.num_padded_tokens) if step.mode is GraphMode.FULL else plan
    ),
)
largest_for_all = _mutant(
    "largest-count-for-all",
    "actual-tokens-end-query-start-loc",
    "Every rank is told the largest rank's tokens.",
    lambda plan, step, rule: replace(plan, num_actual_tokens=(max(step.tokens),) * len(step.tokens)),
)
dummy_token = _mutant(
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


def _as(kind: type[DpPlan]) -> Edit:
    """Plans with the same counts and the behaviour of `kind`."""
    return lambda plan, step, rule: kind(**{field.name: getattr(plan, field.name) for field in fields(DpPlan)})


offsets_without_padding = _mutant(
    "offsets-without-padding",
    "actual-tokens-end-query-start-loc",
    "Where a rank's tokens are in the gathered tensor is counted without the padding of the ranks before it.",
    _as(_ActualOffsets),
)
slices_hold_padding = _mutant(
    "slices-hold-padding",
    "actual-tokens-end-query-start-loc",
    "A rank's slice of the gathered tensor holds its padding too.",
    _as(_PaddedSlices),
)

# -- ranks without tokens ----------------------------------------------------------------------------------------------


def _idle(plan: DpPlan, step: _Step, rule: DpRule) -> DpPlan:
    counts = zip(plan.num_padded_tokens, step.tokens, strict=True)
    return _padded(plan, [padded if tokens else 0 for padded, tokens in counts])


stays_out = _mutant(
    "idle-rank-stays-out",
    "ranks-without-tokens-take-part",
    "A rank without tokens brings no rows and skips the step, in which the others wait for it.",
    _idle,
)
stays_out_ragged = _mutant(
    "idle-rank-brings-nothing",
    "ranks-without-tokens-take-part",
    "Where counts may differ a rank without tokens brings none.",
    lambda plan, step, rule: plan if rule.uniform(step.mode, step.expert_parallel) else _idle(plan, step, rule),
    pad_to="none",
)
no_dummy = _mutant(
    "no-dummy-forward",
    "ranks-without-tokens-take-part",
    "A rank without tokens has rows, and is not told to run a dummy forward over them.",
    lambda plan, step, rule: replace(plan, dummy_forward=(False,) * len(step.tokens)),
)
all_dummy = _mutant(
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
first_rank_alone = _mutant(
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

# -- purity ------------------------------------------------------------------------------------------------------------


def _never_shrinks(backend: Backend) -> Backend:
    largest = [0]

    def edit(plan: DpPlan, step: _Step, rule: DpRule) -> DpPlan:
        largest[0] = max(largest[0], *plan.num_padded_tokens)
        return _padded(plan, [_up(largest[0], rule.multiple(step.tp))] * len(step.tokens))

    return _edited(edit)(backend)


never_shrinks = Mutant(
    "dp_rule.never-shrinks",
    "dp_rule.plans-are-pure",
    "dp_rule",
    "Counts are padded to the largest batch that this process has seen; a rank that restarted has seen another.",
    _never_shrinks,
)


def _by_chance(plan: DpPlan, step: _Step, rule: DpRule) -> DpPlan:
    more = random.SystemRandom().randrange(4) * rule.multiple(step.tp)
    return _padded(plan, [count + more for count in plan.num_padded_tokens])


by_chance = _mutant(
    "random-padding",
    "plans-are-pure",
    "A random amount of padding is added, another one in every process.",
    _by_chance,
)
by_rank_order = _mutant(
    "first-rank-decides",
    "plans-are-pure",
    "Padding depends on what the first rank brings.",
    lambda plan, step, rule: _padded(
        plan, [count + step.tokens[0] % 3 * rule.multiple(step.tp) for count in plan.num_padded_tokens]
    ),
)


def _by_thread(backend: Backend) -> Backend:
    def edit(plan: DpPlan, step: _Step, rule: DpRule) -> DpPlan:
        more = rule.multiple(step.tp) * int(threading.current_thread() is not first)
        return _padded(plan, [count + more for count in plan.num_padded_tokens])

    first = threading.current_thread()
    return _edited(edit)(backend)


by_thread = Mutant(
    "dp_rule.thread-decides",
    "dp_rule.plans-are-pure",
    "dp_rule",
    "Padding depends on the thread that asks.",
    _by_thread,
)

# -- pad and unpad -----------------------------------------------------------------------------------------------------


class _DropsARow(DpPlan):
    def unpad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        return super().unpad(x, rank)[: max(self.num_actual_tokens[rank] - 1, 0)]


class _KeepsPadding(DpPlan):
    def unpad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        super().unpad(x, rank)
        return x


class _Garbage(DpPlan):
    def pad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        rows = torch.empty_like(super().pad(x, rank))
        rows[: x.shape[0]].copy_(x)
        return rows


class _Repeats(DpPlan):
    def pad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        rows = super().pad(x, rank)
        if x.shape[0]:
            rows[x.shape[0] :] = x[-1]
        return rows


class _Front(DpPlan):
    def pad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        rows = super().pad(x, rank)
        return torch.cat([rows[x.shape[0] :], x])

    def unpad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        super().unpad(x, rank)
        return x[x.shape[0] - self.num_actual_tokens[rank] :]


class _Same(DpPlan):
    def pad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        rows = super().pad(x, rank)
        return x if rows.shape[0] == x.shape[0] else rows


class _HidesNan(DpPlan):
    def pad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        rows = super().pad(x, rank)
        return rows.nan_to_num(nan=0.0) if rows.dtype.is_floating_point else rows


class _Float(DpPlan):
    def pad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        return super().pad(x, rank).to(torch.float32)


class _TwoDimensions(DpPlan):
    def pad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        return super().pad(x.reshape(x.shape[0], -1), rank)


class _GatheredByActual(DpPlan):
    def unpad_gathered(self, x: torch.Tensor) -> torch.Tensor:
        super().unpad_gathered(x)
        return x[: sum(self.num_actual_tokens)]


class _GatheredUnordered(DpPlan):
    def unpad_gathered(self, x: torch.Tensor) -> torch.Tensor:
        super().unpad_gathered(x)
        return torch.cat([x[rows] for rows in reversed(self.slices)])


unpad_drops_a_row = _mutant(
    "unpad-drops-a-row", "unpad-inverts-pad", "Unpadding takes the last token off too.", _as(_DropsARow)
)
unpad_keeps_padding = _mutant(
    "unpad-keeps-padding", "unpad-inverts-pad", "Unpadding leaves the padding on.", _as(_KeepsPadding)
)
pad_garbage = _mutant("pad-garbage", "unpad-inverts-pad", "Padding is what the allocator left there.", _as(_Garbage))
pad_repeats = _mutant("pad-repeats", "unpad-inverts-pad", "Padding repeats the last token.", _as(_Repeats))
pad_in_front = _mutant("pad-in-front", "unpad-inverts-pad", "Padding is put before the tokens.", _as(_Front))
pad_is_the_batch = _mutant(
    "pad-gives-the-batch-itself",
    "unpad-inverts-pad",
    "Where there is nothing to pad the batch itself is given, and what is written into one is in the other.",
    _as(_Same),
)
pad_hides_nan = _mutant("pad-hides-nan", "unpad-inverts-pad", "Padding turns NaN of a token into zero.", _as(_HidesNan))
pad_converts = _mutant("pad-converts", "unpad-inverts-pad", "Padding converts token ids to float32.", _as(_Float))
pad_flattens = _mutant(
    "pad-flattens", "unpad-inverts-pad", "Padding makes a matrix of whatever it is given.", _as(_TwoDimensions)
)
gathered_by_actual = _mutant(
    "gathered-cut-at-the-end",
    "unpad-inverts-pad",
    "The gathered tensor is cut at its end, as if all padding were there.",
    _as(_GatheredByActual),
)
gathered_unordered = _mutant(
    "gathered-in-reverse", "unpad-inverts-pad", "Tokens of all ranks come in reverse order of ranks.",
    _as(_GatheredUnordered),
)  # fmt: skip

# -- refusals ----------------------------------------------------------------------------------------------------------


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


def _negative_is_zero(plan: DpPlan, step: _Step, rule: DpRule) -> DpPlan:
    return rule.plan([max(count, 0) for count in step.tokens], step.tp, step.mode, step.expert_parallel)


def _no_ranks(plan: DpPlan, step: _Step, rule: DpRule) -> DpPlan:
    if not step.tokens:
        return plan
    return rule.plan(step.tokens, step.tp, step.mode, step.expert_parallel)


def _no_tp(plan: DpPlan, step: _Step, rule: DpRule) -> DpPlan:
    return rule.plan(step.tokens, max(step.tp, 1), step.mode, step.expert_parallel)


pad_cuts = _mutant("pad-cuts", "misfits-are-refused", "Rows too many are cut off without a word.", _as(_CutsToFit))
pad_fills_up = _mutant(
    "pad-fills-up", "misfits-are-refused", "Tokens that are missing are taken for padding.", _as(_FillsUp)
)
rank_from_the_end = _mutant(
    "rank-from-the-end", "misfits-are-refused", "Rank -1 is the last rank.", _as(_RankFromTheEnd)
)
unpads_anything = _mutant(
    "unpads-anything", "misfits-are-refused", "A tensor of any length is unpadded.", _as(_UnpadsAnything)
)
unpads_any_gathered = _mutant(
    "unpads-any-gathered", "misfits-are-refused", "A gathered tensor of any length is unpadded.",
    _as(_UnpadsAnyGathered),
)  # fmt: skip
another_error = _mutant(
    "refuses-with-another-error", "misfits-are-refused", "A misfit raises RuntimeError.", _as(_OtherError)
)
negative_is_zero = _mutant(
    "negative-count-is-zero",
    "misfits-are-refused",
    "A negative count becomes zero.",
    _negative_is_zero,
    alone=True,
)
no_ranks = _mutant(
    "no-ranks-planned", "misfits-are-refused", "A step without ranks gets an empty plan.", _no_ranks, alone=True
)
no_tp = _mutant(
    "no-tensor-parallel-size", "misfits-are-refused", "A tensor-parallel size of 0 is taken for 1.", _no_tp, alone=True
)

# -- ranks meet --------------------------------------------------------------------------------------------------------


def _rank_decides(backend: Backend) -> Backend:
    rank = [0]

    def factory(rendezvous: Any) -> Any:
        rank[0] = rendezvous.rank
        return backend.communicator(rendezvous)

    def edit(plan: DpPlan, step: _Step, rule: DpRule) -> DpPlan:
        more = rank[0] * rule.multiple(step.tp)
        return _padded(plan, [count + more for count in plan.num_padded_tokens])

    return _edited(edit)(replace(backend, communicator=factory))


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


never_padded = _mutant(
    "planned-and-not-padded",
    "ranks-meet",
    "Counts are planned and nobody pads: ranks bring their own counts into the collective.",
    _as(_Unpadded),
)

# -- legal variants ----------------------------------------------------------------------------------------------------

always_uniform = _legal("always-uniform", "All ranks have one count in every step.", uniform_when="always")
multiple_of_eight = _legal("multiple-of-eight", "Counts are padded to multiples of eight.", multiple_of=8)
multiple_of_tp = _legal("multiple-of-tp", "Counts are multiples of the tensor-parallel size.", multiple_of="tp")
ragged = _legal(
    "ragged", "Counts are never made equal; this backend's collectives take them ragged.",
    pad_to="none", uniform_when="never",
)  # fmt: skip
graphs_only = _legal(
    "equal-in-graphs-only", "Counts are made equal in graph modes, and ragged collectives serve the eager one.",
    pad_to="none", uniform_when="graph",
)  # fmt: skip


def _legal_edit(name: str, statement: str, edit: Edit) -> LegalVariant:
    return LegalVariant(f"dp_rule.{name}", "dp_rule", statement, _edited(edit))


more_padding = _legal_edit(
    "more-padding",
    "Counts are padded to a power of two on top, as capture sizes are: more than is needed, and the same everywhere.",
    lambda plan, step, rule: _padded(
        plan, [rule.multiple(step.tp) << (count - 1).bit_length() for count in plan.num_padded_tokens]
    ),
)


def _dummy_everywhere(plan: DpPlan, step: _Step, rule: DpRule) -> DpPlan:
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


copies = _legal_edit("copies", "Padding concatenates, and unpadding copies.", _as(_Copying))
