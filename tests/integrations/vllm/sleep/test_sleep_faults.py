"""Two workers, a fault at every step on either: old weights and serving, asleep, or FAILED and said so; never stuck."""

from __future__ import annotations

from typing import Any

import pytest

from support.tiny_models import qwen3_moe
from support.vllm_engine import ask

pytestmark = pytest.mark.vllm
STEP = 15.0


@pytest.fixture(scope="module", params=[("2", "1", "kill"), ("1", "2", "hang")], ids=["TP=2", "PP=2"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("faults")
    model = qwen3_moe(folder / "model")
    answer = ask("sleep_faults", folder, "cpu", str(model), *request.param, HARDPOINT_SLEEP_STEP_SECONDS=str(STEP))
    return answer | {"kind": request.param[2]}


def test_a_sleep_that_fails_on_a_rank_leaves_all_of_them_serving_the_old_weights(found: dict[str, Any]) -> None:
    assert len(found["sleep"]) == 10
    for fault, (error, seconds, asleep, tokens) in found["sleep"].items():
        step, _, rank = fault.partition(" on ")
        assert f"rank {rank} objects" in error, fault
        assert f"{step} fails here" in error, fault
        assert not asleep, fault
        assert tokens == found["before"], fault
        assert seconds < STEP, fault


def test_a_wake_that_fails_on_a_rank_leaves_all_of_them_asleep_and_the_next_one_works(found: dict[str, Any]) -> None:
    assert len(found["wake"]) == 6
    for fault, (error, seconds, asleep, still, tokens) in found["wake"].items():
        step, _, rank = fault.partition(" on ")
        assert f"rank {rank} objects" in error, fault
        assert f"{step} fails here" in error, fault
        assert asleep, fault
        assert not still, fault
        assert tokens == found["before"], fault
        assert seconds < STEP, fault


def test_ten_cycles_after_all_those_faults_give_the_same_tokens(found: dict[str, Any]) -> None:
    assert found["cycles"] == [found["before"]] * 10


def test_what_no_engine_survives_is_named_in_time_and_told_by_health_and_every_later_call(
    found: dict[str, Any],
) -> None:
    error, seconds = found["last"]
    again, at_once = found["again"]
    words = {"kill": "the worker of rank 1 has ended: SIGKILL", "hang": "rank 1"}[found["kind"]]
    assert words in error
    assert seconds < 2 * STEP + 10.0
    assert "refused" in again
    assert at_once < 1.0
    assert found["health"]
