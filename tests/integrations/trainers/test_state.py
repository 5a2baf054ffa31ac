from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hardpoint.errors import SyncError
from hardpoint_trainers import checkpoint_tensors
from support.trainer_models import tiny_trainer_moe


def _saved(model: torch.nn.Module, folder: Path) -> dict[str, torch.Tensor]:
    model.save_pretrained(folder)  # type: ignore[operator]
    return load_file(folder / "model.safetensors")


def _assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("tied", [False, True])
def test_state_is_what_save_pretrained_writes(tmp_path: Path, tied: bool) -> None:
    model = tiny_trainer_moe(tie_word_embeddings=tied)
    expected = _saved(model, tmp_path)
    found = checkpoint_tensors(model)
    assert "model.layers.0.mlp.experts.3.up_proj.weight" in found
    assert ("lm_head.weight" in found) is not tied
    _assert_same(found, expected)


def test_state_of_a_loaded_model_is_that_of_its_checkpoint(tmp_path: Path) -> None:
    expected = _saved(tiny_trainer_moe(), tmp_path)
    from transformers import AutoModelForCausalLM

    _assert_same(checkpoint_tensors(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)), expected)


def test_master_weights_are_converted() -> None:
    model = tiny_trainer_moe().float()
    assert {tensor.dtype for tensor in checkpoint_tensors(model, torch.bfloat16).values()} == {torch.bfloat16}


def test_merged_adapter_is_published_under_the_base_names(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = _saved(tiny_trainer_moe(), tmp_path)
    model = peft.get_peft_model(tiny_trainer_moe(), peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    with pytest.raises(SyncError, match=r"model\.layers\.0\.self_attn\.q_proj is not merged.*merge_adapter"):
        checkpoint_tensors(model)
    model.merge_adapter()
    found = checkpoint_tensors(model)
    assert found.keys() == base.keys()
    changed = {name for name in base if not torch.equal(found[name], base[name])}
    assert changed == {f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1)}


def test_plain_module_passes_with_its_own_names() -> None:
    module = torch.nn.Linear(3, 2)
    assert list(checkpoint_tensors(module)) == ["bias", "weight"]
