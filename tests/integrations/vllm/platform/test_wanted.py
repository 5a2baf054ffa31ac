"""Where the derived platform is taken: where it has served, and elsewhere by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("vllm", reason="the integration is tested beside vLLM")

import vllm.platforms as platforms

from hardpoint.environment import BadVariable
from hardpoint_vllm import general, platform_plugin
from hardpoint_vllm.platform import PLATFORMS
from hardpoint_vllm.platform.wanted import derives


@pytest.mark.parametrize(
    ("device_type", "backend", "word", "taken"),
    [
        ("cpu", "cpu", "", True),
        ("cpu", "cpu", "stock", False),
        ("cuda", "cuda", "", False),
        ("cuda", "auto", "", False),
        ("cuda", "cuda", " Derived ", True),
        ("cuda", "cuda:sleep", "", True),
        ("cuda", "cuda:sleep", "stock", False),
        ("xpu", "xpu", "", False),
        ("xpu", "xpu", "derived", True),
    ],
)
def test_where_ours_are_taken(device_type: str, backend: str, word: str, taken: bool) -> None:
    environment = {"HARDPOINT_BACKEND": backend, "HARDPOINT_PLATFORM": word}
    assert derives(device_type, environment) is taken


def test_another_word_is_refused_where_vllm_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDPOINT_BACKEND", "cpu")
    monkeypatch.setenv("HARDPOINT_PLATFORM", "mine")
    assert platform_plugin.platform() is None  # vLLM swallows what this raises
    with pytest.raises(BadVariable, match="should be stock or derived; found 'mine'"):
        general._why_not_derived("cpu")


@pytest.mark.parametrize("word", ["", "derived"])
def test_vllms_own_choice_is_left_alone_and_the_log_says_what_takes_ours(
    monkeypatch: pytest.MonkeyPatch, heard: Callable[[str], list[str]], word: str
) -> None:
    """A machine where vLLM would choose CUDA, as its own list of platforms says it."""
    base = PLATFORMS["cuda"].base
    monkeypatch.setattr(platforms, "builtin_platform_plugins", {"cuda": lambda: base, "cpu": lambda: None})
    monkeypatch.setenv("HARDPOINT_BACKEND", "cuda")
    monkeypatch.setenv("HARDPOINT_PLATFORM", word)
    monkeypatch.setattr(platform_plugin, "active_others", lambda: iter(()))
    said = heard(platform_plugin._logger.name)
    if word:
        assert platform_plugin.platform() == PLATFORMS["cuda"].qualname
        assert said == []
    else:
        assert platform_plugin.platform() is None
        assert said == ["hardpoint: the platform is vLLM's own; HARDPOINT_PLATFORM=derived takes the one for cuda"]
