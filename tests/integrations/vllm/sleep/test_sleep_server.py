"""vLLM's routes over an engine that sleeps with hardpoint: true states, refusals with 503, a drain with a deadline."""

from __future__ import annotations

from typing import Any

import pytest

from support.tiny_models import qwen3_moe
from support.vllm_engine import ask

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("server")
    return ask(
        "sleep_server",
        folder,
        "cpu",
        str(qwen3_moe(folder / "model")),
        HARDPOINT_SLEEP_REQUESTS="refuse",
        HARDPOINT_SLEEP_DRAIN_SECONDS="0.3",
        VLLM_ENABLE_V1_MULTIPROCESSING="1",
    )


def test_health_and_is_sleeping_tell_the_truth(found: dict[str, Any]) -> None:
    assert found["running"] == [200, False]
    assert found["sleep"][0] == 200
    assert found["asleep"] == found["still_asleep"] == [200, True]
    assert found["wake"][0] == 200
    assert found["awake"] == [200, False, found["before"]]


def test_a_request_to_a_sleeping_engine_is_refused_at_once_if_asked_for(found: dict[str, Any]) -> None:
    sentence, status, seconds = found["request_while_asleep"]
    assert "the engine sleeps and takes no requests: wake it" in sentence
    assert status == 503
    assert seconds < 5.0


def test_a_server_that_was_not_asked_itself_tells_the_truth_as_well(found: dict[str, Any]) -> None:
    assert found["unasked_asleep"] == [200, True]
    sentence, status, seconds = found["request_unasked"]
    assert "the engine sleeps and takes no requests: wake it" in sentence
    assert status == 503
    assert seconds < 5.0
    assert found["unasked_awake"] == [200, False, found["before"]]


def test_an_unknown_tag_is_answered_with_503_and_its_sentence(found: dict[str, Any]) -> None:
    status, text, _ = found["unknown_tag"]
    assert status == 503
    assert "there is no memory under nonsense; known tags: kv_cache, weights" in text


def test_a_missed_drain_is_answered_with_503_and_changes_nothing(found: dict[str, Any]) -> None:
    status, text, _ = found["drain_missed"]
    assert status == 503
    assert "running requests did not finish within 0.3 s" in text
    assert found["after_missed_drain"] == [200, False]
    assert found["long"] == 480


def test_sleep_works_again_after_a_missed_drain(found: dict[str, Any]) -> None:
    assert found["sleep_when_idle"][0] == 200
    assert found["wake_again"][0] == 200
    assert found["at_last"] == [200, False, found["before"]]
