from __future__ import annotations

import pytest

from hardpoint_trainers import is_adapter, plain_name

CASES = {
    "model.layers.0.mlp.gate.weight": "model.layers.0.mlp.gate.weight",
    "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight": "model.layers.0.self_attn.q_proj.weight",
    "_orig_mod.model.embed_tokens.weight": "model.embed_tokens.weight",
    "_fsdp_wrapped_module.model.layers.3._fsdp_wrapped_module.mlp.up_proj.weight": "model.layers.3.mlp.up_proj.weight",
    "model.layers.1._checkpoint_wrapped_module._orig_mod.norm.weight": "model.layers.1.norm.weight",
}


@pytest.mark.parametrize(("wrapped", "plain"), CASES.items())
def test_wrappers_are_taken_off(wrapped: str, plain: str) -> None:
    assert plain_name(wrapped) == plain
    assert plain_name(plain) == plain


@pytest.mark.parametrize(
    ("name", "adapter"),
    [
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight", True),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector.default.weight", True),
        ("base_model.model.lm_head.modules_to_save.default.weight", True),
        ("base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight", False),
        ("model.exploration.weight", False),
    ],
)
def test_adapter_tensors_are_known_by_name(name: str, adapter: bool) -> None:
    assert is_adapter(name) is adapter
