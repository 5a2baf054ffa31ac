"""Weights loaded a second time, on stock vLLM without hardpoint, with it merely installed, and with it chosen."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from support.tiny_models import qwen3_moe
from support.vllm_engine import ask

pytestmark = pytest.mark.vllm
Answer = dict[str, Any]


@pytest.fixture(scope="module")
def reload(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str | None], Answer]:
    """Answers of one engine per value of HARDPOINT_BACKEND, started when first asked for."""
    folder: Path = tmp_path_factory.mktemp("reload")
    model = qwen3_moe(folder / "model")
    return cache(lambda backend: ask("reload", folder, backend, str(model)))


def test_stock_gives_wrong_tokens_after_a_reload_of_identical_weights(reload: Callable[[str | None], Answer]) -> None:
    stock = reload("off")
    assert stock["moe"] == "UnquantizedFusedMoEMethod"
    assert stock["reloaded_once"] != stock["first"], "vLLM has mended reload_weights on CPU: hardpoint's method can go"


def test_stock_takes_a_raw_load_of_experts_without_an_error_and_is_wrong_then(
    reload: Callable[[str | None], Answer],
) -> None:
    stock = reload("off")
    assert stock["raw_error"] is None
    assert stock["raw"] != stock["first"], "vLLM has mended raw loads: the tripwire can go"


def test_reload_twice_gives_the_first_tokens_at_the_same_addresses(reload: Callable[[str | None], Answer]) -> None:
    ours = reload("cpu")
    assert ours["moe"] == "HardpointUnquantizedFusedMoEMethod"
    assert ours["first"] == reload("off")["first"], "the first load must not change"
    assert ours["reloaded_once"] == ours["first"]
    assert ours["reloaded_twice"] == ours["first"]
    assert ours["addresses_stay"]


@pytest.mark.parametrize("backend", [None, "cpu"])
def test_a_raw_load_of_experts_raises_and_changes_nothing(
    reload: Callable[[str | None], Answer], backend: str | None
) -> None:
    answer = reload(backend)
    for error in (answer["raw_error"], answer["raw_again_error"], *answer["raw_each_error"].values()):
        assert error is not None
        assert error.startswith("LayoutError: Raw load_weights into model.layers.")
        assert "reload_weights" in error
        assert "start_weight_update" in error
    assert answer["raw"] == answer["first"]
    assert answer["raw_again"] == answer["reloaded_twice"]


def test_each_expert_weight_is_guarded(reload: Callable[[str | None], Answer]) -> None:
    errors = " ".join(reload("cpu")["raw_each_error"].values())
    assert "w13_weight" in errors
    assert "w2_weight" in errors


@pytest.mark.parametrize("backend", [None, "cpu"])
def test_a_raw_load_of_what_no_kernel_repacks_stays_possible(
    reload: Callable[[str | None], Answer], backend: str | None
) -> None:
    answer = reload(backend)
    assert answer["raw_plain_error"] is None
    assert answer["raw_plain"] == answer["raw_again"]


def test_unset_leaves_the_platform_and_the_results_of_vllm_alone(reload: Callable[[str | None], Answer]) -> None:
    stock, unset = reload("off"), reload(None)
    assert (unset["platform"], unset["moe"]) == ("CpuPlatform", "UnquantizedFusedMoEMethod")
    assert unset["first"] == stock["first"]
    assert unset["log"].count("HARDPOINT_BACKEND is unset") == 1


def test_chosen_derives_the_platform_and_keeps_its_identity(reload: Callable[[str | None], Answer]) -> None:
    ours = reload("cpu")
    assert (ours["platform"], ours["enum"]) == ("HardpointCpuPlatform", "CPU")
    assert "hardpoint: backend for cpu on HardpointCpuPlatform" in ours["log"]


def test_off_installs_nothing(reload: Callable[[str | None], Answer]) -> None:
    stock = reload("off")
    assert stock["platform"] == "CpuPlatform"
    assert "hardpoint:" not in stock["log"]
