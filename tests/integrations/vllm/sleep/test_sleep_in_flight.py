"""Requests that run at the moment of sleep: finished, kept or aborted by its mode, with the tokens of an engine that
never slept; what a missed drain leaves behind; and what Prometheus has seen of all that."""

from __future__ import annotations

from typing import Any

import pytest

from support.tiny_models import qwen3_moe
from support.vllm_engine import ask

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("in_flight")
    model = str(qwen3_moe(folder / "model"))
    return ask("sleep_in_flight", folder, "cpu", model, VLLM_ENABLE_V1_MULTIPROCESSING="1")


def _complete(found: dict[str, Any], mode: str) -> list[Any]:
    return [[tokens, "length"] for tokens in found["never_slept"]]


def test_with_wait_they_are_finished_before_the_engine_sleeps(found: dict[str, Any]) -> None:
    assert found["wait"]["asleep"]
    assert found["wait"]["done"] == [True] * 3
    assert found["wait"]["answers"] == _complete(found, "wait")


def test_with_keep_they_sleep_too_and_go_on_afterwards(found: dict[str, Any]) -> None:
    assert found["keep"]["asleep"]
    assert found["keep"]["done"] == [False] * 3
    assert found["keep"]["answers"] == _complete(found, "keep")


def test_with_abort_they_end_at_once_with_what_they_have(found: dict[str, Any]) -> None:
    assert found["abort"]["asleep"]
    for (tokens, reason), whole in zip(found["abort"]["answers"], found["never_slept"], strict=True):
        assert reason == "abort"
        assert 3 <= len(tokens) < len(whole)
        assert tokens == whole[: len(tokens)]


@pytest.mark.parametrize("mode", ["wait", "keep", "abort"])
def test_a_request_that_comes_while_it_sleeps_waits_and_is_answered_right(found: dict[str, Any], mode: str) -> None:
    assert found[mode]["waits"]
    assert found[mode]["late"] == [found["never_slept"][0], "length"]


def test_a_missed_drain_is_a_typed_error_and_changes_nothing(found: dict[str, Any]) -> None:
    sentence, status, seconds = found["missed"]["refusal"]
    assert sentence.startswith("SleepRefused: ")
    assert "running requests did not finish within 0.05 s. Nothing has changed" in sentence
    assert status == 503
    assert seconds < 30.0
    assert not found["missed"]["asleep"]
    assert found["missed"]["answers"] == _complete(found, "missed")


def test_prometheus_has_seen_it(found: dict[str, Any]) -> None:
    seen = found["metrics"]
    assert seen["hardpoint:sleep_state state=awake"] == 1
    assert seen["hardpoint:sleep_seconds_count transition=sleep part=protocol"] == 3
    assert seen["hardpoint:sleep_seconds_count transition=wake part=memory"] == 3
    total = seen["hardpoint:sleep_seconds_sum transition=sleep part=total"]
    assert 0 < seen["hardpoint:sleep_seconds_sum transition=sleep part=memory"] < total
    freed = seen["hardpoint:sleep_bytes_total direction=freed"]
    assert freed == seen["hardpoint:sleep_bytes_total direction=restored"]
    assert freed > 3 << 30  # a KV cache of 1 GiB, three times
    assert seen["hardpoint:sleep_failures_total transition=sleep reason=drain_deadline"] == 1
