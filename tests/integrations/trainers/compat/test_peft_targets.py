"""A regex in target_modules means after PEFT's conversion what it meant before: per layer, experts included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from hardpoint.errors import HardpointError
from hardpoint_trainers.compat import peft_targets
from hardpoint_trainers.compat.peft_targets import SHIM, is_kept
from support.trainer_models import tiny_trainer_moe

peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'hardpoint[dev]'")
LAYER_0_Q = r".*\.layers\.0\.self_attn\.q_proj"


@pytest.fixture
def shim() -> Iterator[None]:
    SHIM.put()
    yield
    SHIM.take()


def adapted(target_modules: Any, **options: Any) -> set[str]:
    """Modules and parameters that got LoRA weights, by the name they have in the model."""
    model = peft.get_peft_model(tiny_trainer_moe(), peft.LoraConfig(r=2, target_modules=target_modules, **options))
    found = set()
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and len(module.lora_A):
            plain = name.removeprefix("base_model.model.model.").replace(".base_layer", "")
            found.add(f"{plain}.{module.parameter_name}" if hasattr(module, "parameter_name") else plain)
    return found


def test_without_it_a_regex_for_one_layer_adapts_every_layer() -> None:
    """If this fails, PEFT has mended it: the shim has retired itself, and can be removed for this version."""
    assert adapted(LAYER_0_Q) == {"layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj"}
    assert SHIM.row().state == "needed"
    assert "layers.1.q_proj" in SHIM.row().why


@pytest.mark.usefixtures("shim")
def test_with_it_the_regex_survives() -> None:
    assert SHIM.row().state == "active"
    assert adapted(LAYER_0_Q) == {"layers.0.self_attn.q_proj"}
    config = peft.LoraConfig(target_modules=LAYER_0_Q)
    peft.get_peft_model(tiny_trainer_moe(), config)
    assert config.target_modules == LAYER_0_Q


@pytest.mark.usefixtures("shim")
@pytest.mark.parametrize(
    "pattern",
    [
        r".*layers\.1\..*\.(q_proj|gate_proj|up_proj|down_proj)",
        r".*layers\.1\..*(q_proj|experts\.\d+\.(gate_proj|up_proj|down_proj))",
        r".*layers\.1\.(self_attn\.q_proj|mlp\.experts\.(gate_up_proj|down_proj))",
    ],
)
def test_experts_by_their_old_names_become_parameters_of_the_layers_that_match(pattern: str) -> None:
    assert adapted(pattern) == {
        "layers.1.self_attn.q_proj",
        "layers.1.mlp.experts.gate_up_proj",
        "layers.1.mlp.experts.down_proj",
    }


@pytest.mark.usefixtures("shim")
def test_experts_alone_and_rank_and_alpha_as_in_pefts_own_conversion() -> None:
    pattern = r".*experts\.\d+\.(gate_proj|up_proj|down_proj)"
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=pattern)
    peft.get_peft_model(tiny_trainer_moe(), config)
    listed = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["gate_proj", "up_proj", "down_proj"])
    peft.get_peft_model(tiny_trainer_moe(), listed)
    assert (config.rank_pattern, config.alpha_pattern) == (listed.rank_pattern, listed.alpha_pattern)
    assert config.target_modules == pattern
    assert adapted(pattern) == adapted(["gate_proj", "up_proj", "down_proj"])


@pytest.mark.usefixtures("shim")
def test_a_router_is_adapted_as_a_parameter_since_it_is_no_linear_layer_any_more() -> None:
    assert adapted(r".*layers\.0\..*\.(q_proj|gate)") == {"layers.0.self_attn.q_proj", "layers.0.mlp.gate.weight"}
    with pytest.raises(HardpointError, match=r"exclude_modules is a regex itself"):
        adapted(r".*\.(q_proj|gate)", exclude_modules=r".*lm_head")


@pytest.mark.usefixtures("shim")
@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (r".*experts\.[01]\.(gate_proj|up_proj|down_proj)", r"leaves out 2\.down_proj, 3\.down_proj|leaves out 2\."),
        (r".*layers\.0\.mlp.*\.gate_proj", r"names part of model\.layers\.0\.mlp\.experts\.gate_up_proj"),
    ],
)
def test_part_of_what_is_fused_is_refused(pattern: str, words: str) -> None:
    with pytest.raises(HardpointError, match=words):
        adapted(pattern)


@pytest.mark.usefixtures("shim")
@pytest.mark.parametrize("target", [["q_proj"], "all-linear", "ALL-LINEAR", "q_proj[", "*bad(", None])
def test_everything_else_goes_to_pefts_own_conversion(target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peft_targets, "convert", lambda *_: pytest.fail("not PEFT's own"))

    def outcome() -> Any:
        try:
            return adapted(target)
        except Exception as error:  # noqa: BLE001 - the same error, whatever it is
            return type(error).__name__, str(error)

    ours = outcome()
    SHIM.take()
    assert ours == outcome()
    assert not is_kept(target)


@pytest.mark.usefixtures("shim")
def test_a_model_that_peft_does_not_convert_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peft_targets, "convert", lambda *_: pytest.fail("nothing to convert"))
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules="0"))
    assert [name for name, _ in wrapped.named_parameters() if "lora_A" in name] == [
        "base_model.model.0.lora_A.default.weight"
    ]


@pytest.mark.usefixtures("shim")
def test_a_second_adapter_and_a_reload_mean_the_same(tmp_path: Any) -> None:
    pattern = r".*layers\.1\..*\.(q_proj|gate_proj|up_proj|down_proj)"
    model = peft.get_peft_model(tiny_trainer_moe(), peft.LoraConfig(r=2, target_modules=pattern))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(tiny_trainer_moe(), tmp_path)
    assert again.peft_config["default"].target_modules == pattern
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)


def test_it_retires_when_peft_lets_a_regex_survive(monkeypatch: pytest.MonkeyPatch) -> None:
    module = peft_targets.conversion()
    monkeypatch.setattr(module, peft_targets.NAME, lambda config, model, conversions: None)
    row = SHIM.apply()
    assert (row.state, SHIM.installed()) == ("retired", False)
    assert "survives" in row.why
