"""`DpRule`: the plan of a step, for every rule, group and mode."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardpoint.dp import DpRule, GraphMode, synced_mode
from hardpoint.errors import DpError

rules = st.builds(
    DpRule,
    pad_to=st.sampled_from(["max", "none"]),
    multiple_of=st.sampled_from([1, 2, 3, 8, "tp"]),
    uniform_when=st.sampled_from(["graph", "ep", "always", "never"]),
)
steps = st.tuples(
    st.lists(st.integers(0, 50), min_size=1, max_size=6),
    st.sampled_from([1, 2, 3, 4, 8]),
    st.sampled_from(list(GraphMode)),
    st.booleans(),
)
Step = tuple[list[int], int, GraphMode, bool]


@given(rule=rules, step=steps)
def test_every_plan_holds_its_tokens_in_multiples(rule: DpRule, step: Step) -> None:
    tokens, tp, mode, ep = step
    plan = rule.plan(tokens, tp, mode, ep)
    multiple = tp if rule.multiple_of == "tp" else rule.multiple_of
    assert plan.num_actual_tokens == tuple(tokens)
    for actual, padded, dummy in zip(tokens, plan.num_padded_tokens, plan.dummy_forward, strict=True):
        assert padded >= actual
        assert padded % multiple == 0
        assert dummy == (any(tokens) and actual == 0)
        assert (padded > 0) == any(tokens)


@given(rule=rules, step=steps)
def test_counts_are_equal_exactly_where_the_rule_says_so(rule: DpRule, step: Step) -> None:
    tokens, tp, mode, ep = step
    plan = rule.plan(tokens, tp, mode, ep)
    demanded = {
        "graph": mode != GraphMode.NONE,
        "ep": mode != GraphMode.NONE or ep,
        "always": True,
        "never": False,
    }[rule.uniform_when]
    multiple = tp if rule.multiple_of == "tp" else rule.multiple_of
    own = tuple(-(-max(count, 1) // multiple) * multiple if any(tokens) else 0 for count in tokens)
    equal = demanded or rule.pad_to == "max"
    assert plan.num_padded_tokens == ((max(own),) * len(tokens) if equal else own)


@given(rule=rules, step=steps)
def test_plans_do_not_depend_on_the_order_of_ranks(rule: DpRule, step: Step) -> None:
    tokens, tp, mode, ep = step
    plan = rule.plan(tokens, tp, mode, ep)
    backwards = rule.plan(tokens[::-1], tp, mode, ep)
    assert backwards.num_padded_tokens == plan.num_padded_tokens[::-1]
    assert backwards.dummy_forward == plan.dummy_forward[::-1]
    assert rule.plan(tuple(tokens), tp, int(mode), ep) == plan


def test_fr4_both_ranks_bring_30_rows_and_their_own_tokens() -> None:
    plan = DpRule().plan([26, 30], 2, GraphMode.NONE, expert_parallel=True)
    assert plan.num_padded_tokens == (30, 30)
    assert plan.num_actual_tokens == (26, 30)
    assert plan.slices == (slice(0, 26), slice(30, 60))


def test_fr4_without_a_rule_for_eager_mode() -> None:
    rule = DpRule(pad_to="none", uniform_when="graph")
    assert rule.plan([26, 30], 2, GraphMode.NONE, expert_parallel=True).num_padded_tokens == (26, 30)
    assert rule.plan([26, 30], 2, GraphMode.PIECEWISE, expert_parallel=True).num_padded_tokens == (30, 30)


def test_the_largest_count_is_rounded_up_to_the_tensor_parallel_size() -> None:
    assert DpRule(multiple_of="tp").plan([5, 3, 0], 4).num_padded_tokens == (8, 8, 8)


def test_a_rank_without_tokens_runs_the_least_there_is() -> None:
    plan = DpRule(pad_to="none", uniform_when="never", multiple_of=4).plan([0, 9])
    assert plan.num_padded_tokens == (4, 12)
    assert plan.dummy_forward == (True, False)


def test_nobody_runs_where_nobody_has_a_token() -> None:
    plan = DpRule(multiple_of=8, uniform_when="always").plan([0, 0])
    assert (plan.num_padded_tokens, plan.dummy_forward, plan.runs) == ((0, 0), (False, False), False)


@pytest.mark.parametrize("modes", [*permutations(GraphMode), (GraphMode.FULL,) * 2])
def test_the_synced_mode_is_the_least(modes: tuple[GraphMode, ...]) -> None:
    assert synced_mode(modes) == (GraphMode.NONE if len(modes) == 3 else GraphMode.FULL)


def test_a_synced_mode_needs_ranks() -> None:
    with pytest.raises(DpError, match="got none"):
        synced_mode([])


@pytest.mark.parametrize(
    ("tokens", "tp", "named"), [([], 1, "got none"), ([3, -1], 1, "rank 1 brings -1"), ([1], 0, "got 0")]
)
def test_steps_that_cannot_be_are_refused(tokens: list[int], tp: int, named: str) -> None:
    with pytest.raises(DpError, match=named):
        DpRule().plan(tokens, tp)


@pytest.mark.parametrize(
    "data", [{"pad_to": "min"}, {"uniform_when": "sometimes"}, {"multiple_of": 0}, {"multiple_of": "ep"}]
)
def test_rules_that_cannot_be_are_refused_by_name(data: dict[str, object]) -> None:
    with pytest.raises(DpError, match=f"DpRule.{next(iter(data))}"):
        replace(DpRule(), **data)  # type: ignore[arg-type]
