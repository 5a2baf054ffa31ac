"""The table of overrides tells the truth: targets exist, what is replaced is listed, what is listed is replaced."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from hardpoint_vllm import overrides
from hardpoint_vllm.versions import SUPPORTED
from support.vllm_engine import ask

pytestmark = pytest.mark.vllm
Answer = dict[str, Any]


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Answer]:
    return cache(lambda backend, **env: ask("overridden", tmp_path_factory.mktemp("overridden"), backend, **env))


@pytest.mark.parametrize("target", [row.target for row in overrides.table()])
def test_each_target_exists_in_the_installed_vllm(target: str) -> None:
    module, _, path = target.partition(":")
    found: Any = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)  # AttributeError: vLLM moved it; mend the override and its row
    assert callable(found)


def test_each_row_says_who_why_and_for_which_versions() -> None:
    for row in overrides.table():
        assert importlib.import_module(row.owner)
        assert len(row.reason.split()) > 5
        assert row.versions == SUPPORTED


def test_every_patch_is_listed_and_every_listed_row_is_installed_when_a_backend_is_chosen(
    process: Callable[..., Answer],
) -> None:
    ours = process("cpu")
    assert ours["error"] is None
    assert [row["target"] for row in ours["table"] if not row["installed"]] == []
    assert ours["replaced"] == sorted(row["target"] for row in ours["table"] if row["kind"] == "patch")


def test_unset_installs_what_cannot_change_results_alone(process: Callable[..., Answer]) -> None:
    unset = process(None)
    assert unset["error"] is None
    assert [row["owner"] for row in unset["table"] if row["installed"]] == [
        "hardpoint_vllm.tripwire.hook",
        "hardpoint_vllm.weight_transfer.engine",
        "hardpoint_vllm.compat.post_load",
    ]
    assert unset["replaced"] == [
        "vllm.model_executor.model_loader.base_loader:process_weights_after_loading",
        "vllm.model_executor.model_loader.utils:process_weights_after_loading",
    ]


def test_off_installs_nothing(process: Callable[..., Answer]) -> None:
    off = process("off")
    assert off["replaced"] == []
    assert not any(row["installed"] for row in off["table"])


def test_a_cpu_target_skips_the_platform_alone_and_the_rest_is_installed(process: Callable[..., Answer]) -> None:
    forced = process("cpu", VLLM_TARGET_DEVICE="cpu")
    assert forced["platform"] == "CpuPlatform"
    assert forced["error"] is None
    assert [row["owner"] for row in forced["table"] if not row["installed"]] == ["hardpoint_vllm.platform.cpu"]


def test_an_unknown_backend_stops_the_engine_with_the_candidates(process: Callable[..., Answer]) -> None:
    unknown = process("nope")
    assert unknown["error"].startswith("BackendUnavailable: ")
    assert "nope" in unknown["error"]
    assert "cpu" in unknown["error"]
