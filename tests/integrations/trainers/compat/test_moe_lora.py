"""What docs/moe-lora.md says of LoRA on fused experts, on the real PEFT and transformers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from hardpoint_trainers import checkpoint_tensors, compat
from support.trainer_models import tiny_trainer_moe

peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'hardpoint[dev]'")
EVERYTHING = ["q_proj", "gate_proj", "up_proj", "down_proj"]
LAYER = "model.layers.0.mlp.experts"


@pytest.fixture(autouse=True)
def _repaired() -> Iterator[None]:
    compat.install()
    yield
    compat.remove()


def adapted(targets: Any = EVERYTHING) -> Any:
    base = tiny_trainer_moe().float()
    torch.manual_seed(1)
    return peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False))


def test_merged_experts_are_published_with_their_adapters() -> None:
    base, model = checkpoint_tensors(tiny_trainer_moe().float()), adapted()
    outer = model.base_model.model.model.layers[0].mlp.experts
    delta = {each.parameter_name: each.get_delta_weight("default") for each in (outer, outer.base_layer)}
    model.merge_adapter()
    found = checkpoint_tensors(model)
    assert found.keys() == base.keys()
    for expert in range(4):
        gate, up = delta["gate_up_proj"][expert].chunk(2)
        for which, change in (("gate", gate), ("up", up), ("down", delta["down_proj"][expert])):
            name = f"{LAYER}.{expert}.{which}_proj.weight"
            torch.testing.assert_close(found[name], base[name] + change)
            assert change.any()


def test_under_fsdp2_loss_and_gradients_of_experts_are_those_without_it() -> None:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        plain, sharded = adapted(), adapted()
        # By itself torch takes the mesh of an accelerator, and the simulator of other tests in this process is one.
        mesh = init_device_mesh("cpu", (1,))
        for layer in sharded.base_model.model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(sharded, mesh=mesh)
        ids = torch.tensor([[1, 2, 3, 4]])
        losses = []
        for model in (plain, sharded):
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            losses.append(loss.detach())
        torch.testing.assert_close(losses[0], losses[1])
        gradients = {name: parameter.grad for name, parameter in sharded.named_parameters() if "lora_" in name}
        assert any("experts" in name for name in gradients)
        for name, parameter in plain.named_parameters():
            if "lora_" in name:
                torch.testing.assert_close(gradients[name].full_tensor(), parameter.grad)
    finally:
        distributed.destroy_process_group()


def test_several_adapters_target_the_same_experts_or_none() -> None:
    model = adapted()
    model.add_adapter("attention", peft.LoraConfig(r=2, target_modules=["q_proj"]))
    model.add_adapter("same", peft.LoraConfig(r=2, target_modules=EVERYTHING))
    with pytest.raises(ValueError, match="must target the same set of parameters"):
        model.add_adapter(
            "other", peft.LoraConfig(r=2, target_modules=["q_proj"], target_parameters=["mlp.experts.down_proj"])
        )
