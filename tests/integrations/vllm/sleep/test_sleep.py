"""Sleep mode on the CPU: same tokens after every way to sleep, states that are true, refusals that change nothing."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from support.tiny_models import qwen3_moe
from support.vllm_engine import ask

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen3_moe(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def slept(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return cache(lambda backend: ask("sleep", tmp_path_factory.mktemp("sleep"), backend, str(model), "1", "1", "10"))


def test_stock_vllm_has_no_sleep_on_the_cpu(slept: Any) -> None:
    assert "Sleep mode is not supported on current platform" in slept("off")["refused"]


def test_ten_cycles_give_the_same_tokens_and_true_states(slept: Any) -> None:
    found = slept("cpu")
    assert len(found["cycles"]) == 10
    for asleep, still, tokens, *_ in found["cycles"]:
        assert asleep
        assert not still
        assert tokens == found["before"]


def test_half_awake_is_asleep_and_the_rest_may_follow(slept: Any) -> None:
    found = slept("cpu")
    assert found["half_awake"] is True
    assert found["after_halves"] == [False, found["before"]]


def test_level_2_serves_nothing_until_every_weight_is_written(slept: Any) -> None:
    found = slept("cpu")
    assert found["undefined"] is True
    assert found["after_level_2"] == [False, found["before"]]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ("never_slept", "it never slept, so there is nothing to wake"),
        ("unknown_tag", "there is no memory under nonsense; known tags: kv_cache, weights"),
        ("update_while_asleep", "reload_weights is refused: the weights sleep"),
        ("request_while_asleep", "the engine sleeps and takes no requests: wake it"),
        ("alone", "called on one worker alone"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(slept: Any, call: str, sentence: str) -> None:
    assert sentence in slept("cpu")[call]


def test_a_refused_call_changes_nothing(slept: Any) -> None:
    assert slept("cpu")["after_never_slept"] == slept("cpu")["before"]
