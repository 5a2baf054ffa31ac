"""Merged publishing: the adapter's effect is in what is sent, and the trainer's own weights keep every bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hardpoint.errors import SyncError
from hardpoint_trainers import checkpoint_tensors
from hardpoint_trainers.sharded import CheckpointStream
from support.trainer_models import tiny_trainer_moe

peft = pytest.importorskip("peft", reason="peft is not installed here; `make trainers` runs this")


def _adapted(**options: Any) -> Any:
    model = peft.get_peft_model(tiny_trainer_moe(), peft.LoraConfig(r=4, lora_alpha=8, **options))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return model


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": "all-linear", "use_rslora": True},
        {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]},
    ],
)
def test_it_is_what_peft_merges_and_nothing_is_touched(options: dict[str, Any]) -> None:
    model = _adapted(**options)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = {name: tensor.clone() for name, tensor in CheckpointStream(model)}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.merge_adapter()
    expected = checkpoint_tensors(model)
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    plain = checkpoint_tensors(tiny_trainer_moe())
    assert any(not torch.equal(found[name], plain[name]) for name in plain)


def test_an_adapter_that_is_no_sum_is_refused_by_name() -> None:
    with pytest.raises(SyncError, match=r"q_proj is a Dora.*merge_and_unload"):
        CheckpointStream(_adapted(target_modules=["q_proj"], use_dora=True))


def test_modules_to_save_are_refused_by_name() -> None:
    with pytest.raises(SyncError, match=r"lm_head.* is a trained copy kept by modules_to_save"):
        CheckpointStream(_adapted(target_modules=["q_proj"], modules_to_save=["lm_head"]))
