"""The rules that backends state: data with a reason for each deviation, and what they come to in the step of FR4."""

from __future__ import annotations

import pickle
import runpy
from dataclasses import fields, replace
from pathlib import Path

import pytest

from hardpoint.dp import DpRule, GraphMode
from hardpoint.errors import DpError

BACKENDS = Path(__file__).parents[3] / "backends"
# Read by path: the rule is data, and no vendor's package may be needed to look at it.
RULES: dict[str, DpRule] = {
    name: runpy.run_path(str(BACKENDS / name / f"hardpoint_{name}" / "dp_rule.py"))["DP_RULE"]
    for name in ("cpu", "cuda", "xpu", "npu")
}


@pytest.mark.parametrize("name", RULES)
def test_what_differs_from_the_default_has_a_reason(name: str) -> None:
    rule = RULES[name]
    differs = {
        each.name for each in fields(DpRule) if each.name != "reasons" and getattr(rule, each.name) != each.default
    }
    assert differs <= set(rule.reasons)
    assert all(len(reason.split()) > 5 for reason in rule.reasons.values())


@pytest.mark.parametrize("name", RULES)
def test_a_rule_survives_a_pipe_and_reasons_are_not_part_of_it(name: str) -> None:
    rule = RULES[name]
    assert pickle.loads(pickle.dumps(rule)) == rule
    assert replace(rule, reasons={}) == rule
    assert "reasons" not in rule.as_data()


@pytest.mark.parametrize(
    ("name", "eager", "graph", "barrier", "ahead"),
    [
        ("cpu", (30, 30), (30, 30), False, False),
        ("cuda", (26, 30), (30, 30), False, True),
        ("xpu", (30, 30), (30, 30), True, False),
        ("npu", (30, 30), (30, 30), False, True),
    ],
)
def test_the_step_of_fr4(name: str, eager: tuple[int, int], graph: tuple[int, int], barrier: bool, ahead: bool) -> None:
    rule = RULES[name]
    assert rule.plan((26, 30), tp=2, expert_parallel=True).num_padded_tokens == eager
    assert rule.plan((26, 30), tp=2, synced_mode=GraphMode.FULL, expert_parallel=True).num_padded_tokens == graph
    assert rule.barrier(expert_parallel=True) == barrier
    assert not rule.barrier(expert_parallel=False)
    assert not rule.barrier(expert_parallel=True, capturing=True), "the host must not wait in a capture"
    assert rule.async_scheduling == ahead


def test_npu_pads_to_the_tensor_parallel_size() -> None:
    assert RULES["npu"].plan((25, 29), tp=4, expert_parallel=True).num_padded_tokens == (32, 32)
    assert RULES["xpu"].plan((25, 29), tp=4, expert_parallel=True).num_padded_tokens == (29, 29)


def test_a_reason_for_no_field_is_refused() -> None:
    with pytest.raises(DpError, match="explains bariers, which is no field of a rule"):
        DpRule(reasons={"bariers": "a typo"})
