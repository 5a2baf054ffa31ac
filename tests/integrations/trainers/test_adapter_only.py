"""`AdapterStream`: what PEFT saves of an adapter, tensor by tensor, and what is no adapter is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from hardpoint.errors import SyncError
from hardpoint.sync import TensorSpec
from hardpoint_trainers.adapter_only import AdapterStream
from support.trainer_models import tiny_trainer_moe

peft = pytest.importorskip("peft", reason="peft is not installed here; `make trainers` runs this")


def adapted(**options: Any) -> Any:
    torch.manual_seed(1)
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "o_proj"], "init_lora_weights": False, **options}
    return peft.get_peft_model(tiny_trainer_moe(), peft.LoraConfig(**options))


@pytest.mark.parametrize("name", ["default", "student"])
def test_it_is_what_peft_saves(name: str) -> None:
    model = adapted()
    if name != "default":
        model.add_adapter(name, peft.LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False))
    expected = peft.get_peft_model_state_dict(model, adapter_name=name)
    stream = AdapterStream(model, name)
    found = dict(stream)
    assert found.keys() == expected.keys() and found
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert [TensorSpec.of(key, of) for key, of in found.items()] == list(stream.specs)


def test_values_are_those_of_now_and_may_be_converted() -> None:
    model = adapted()
    stream = AdapterStream(model, dtype=torch.bfloat16)
    before = dict(stream)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(1)
    after = dict(stream)
    assert all(of.dtype is torch.bfloat16 for of in after.values())
    assert all(not torch.equal(before[name], of) for name, of in after.items())


def test_what_engines_are_told_is_json_and_says_the_scale() -> None:
    told = AdapterStream(adapted(use_rslora=True)).info("policy", number=3)
    again = json.loads(json.dumps(told))
    assert (again["name"], again["number"]) == ("policy", 3)
    config = again["config"]
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (4, 8, True)
    assert config["target_modules"] == ["o_proj", "q_proj"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"target_modules": ["embed_tokens"]}, "lora_embedding_A"),
    ],
)
def test_more_than_pairs_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SyncError, match=rf"more than pairs.*{words}"):
        AdapterStream(adapted(**options))


def test_no_adapter_is_refused() -> None:
    with pytest.raises(SyncError, match="has no adapter: wrap it"):
        AdapterStream(tiny_trainer_moe())
    with pytest.raises(SyncError, match="no adapter 'absent'; it has default"):
        AdapterStream(adapted(), "absent")
