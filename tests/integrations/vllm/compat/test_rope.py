"""A list in ignore_keys_at_rope_validation is taken while vLLM makes its configs, and not before or afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import transformers

from hardpoint_vllm.compat import rope
from hardpoint_vllm.compat.rope import KEYS, METHOD, SHIM, list_keys_as_sets
from support.old_releases import run_with

PROGRAM = """
import importlib.metadata
version = importlib.metadata.version
# Newer libraries than this release allows are beside it; its configs need none of them.
beside = {"huggingface-hub": "1.5.0", "huggingface_hub": "1.5.0", "tokenizers": "0.22.0"}
importlib.metadata.version = lambda name: beside.get(name) or version(name)
import sys, types
arg_utils = types.ModuleType("vllm.engine.arg_utils")  # vLLM itself needs a newer transformers than this one

class EngineArgs:
    def create_engine_config(self):
        return given()

arg_utils.EngineArgs = EngineArgs
for name in ("vllm", "vllm.engine"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["vllm.engine.arg_utils"] = arg_utils
from transformers import PretrainedConfig
from hardpoint_vllm.compat.rope import KEYS, METHOD, SHIM, _owner

def given():
    config = PretrainedConfig()
    config.rope_parameters = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1]}
    config.max_position_embeddings = 8
    setattr(config, KEYS, ["mrope_section"])
    ARGUMENT
    return sorted(getattr(config, KEYS))

def outcome(call):
    try:
        return call()
    except TypeError as error:
        return "TypeError"

original = vars(_owner())[METHOD]
states = [SHIM.row().state, SHIM.apply().state, SHIM.apply().state]
inside, after = outcome(EngineArgs().create_engine_config), outcome(given)
undone = vars(_owner())[METHOD] is original
SHIM.take()
answer = [states, inside, after, undone, outcome(EngineArgs().create_engine_config), SHIM.row().why]
"""


@pytest.mark.parametrize(
    ("release", "call"),
    [
        ("transformers-5.1.0", 'getattr(config, METHOD)(**{KEYS: ["mrope_section"]})'),
        ("transformers-5.5.0", "getattr(config, METHOD)(partial_rotary_factor=0.5)"),
    ],
)
def test_on_releases_that_have_the_fault(release: str, call: str) -> None:
    states, inside, after, undone, without, why = run_with(release, PROGRAM.replace("ARGUMENT", call))
    assert states == ["needed", "active", "active"]
    assert "mrope_section" in inside
    assert (after, undone, without) == ("TypeError", True, "TypeError")
    assert "raises TypeError" in why


def test_the_installed_transformers_takes_a_list_by_itself_and_the_shim_has_retired() -> None:
    verdict = rope._examine()
    assert not verdict.faulty
    assert "by itself" in verdict.why
    row = SHIM.apply()
    assert (row.state, SHIM.installed()) == ("retired", False)


def test_it_is_undone_also_when_what_is_inside_raises() -> None:
    owner: Any = rope._owner()
    original = vars(owner)[METHOD]
    with pytest.raises(ZeroDivisionError), list_keys_as_sets() as found:
        assert found
        assert vars(owner)[METHOD] is not original
        raise ZeroDivisionError
    assert vars(owner)[METHOD] is original


def test_inside_a_list_is_a_set_and_everything_else_is_passed_on() -> None:
    config = transformers.PretrainedConfig()
    config.rope_parameters = {"rope_type": "default", "rope_theta": 1e4}
    setattr(config, KEYS, ["a"])
    with list_keys_as_sets():
        left = getattr(config, METHOD)(rope_theta=5.0, other=1)
    assert left == {"other": 1}
    assert getattr(config, KEYS) == {"a"}


def test_a_transformers_without_the_method_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        pass

    monkeypatch.setattr(transformers, "PretrainedConfig", Old)
    with list_keys_as_sets() as found:
        assert not found
    assert not hasattr(Old, METHOD)
    assert rope._examine().why == f"this transformers has no {METHOD}."
