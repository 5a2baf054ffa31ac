"""lora_dropout on fused experts is refused by name, before a module is wrapped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hardpoint.errors import HardpointError
from hardpoint_trainers.compat import peft_targets, refuse_dropout_on_experts
from hardpoint_trainers.compat.peft_dropout import SHIM
from support.trainer_models import tiny_trainer_moe

peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'hardpoint[dev]'")
CONFIGS: tuple[dict[str, Any], ...] = (
    {"target_modules": ["q_proj", "gate_proj", "up_proj", "down_proj"]},
    {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj"]},
    {"target_modules": r".*\.(q_proj|gate_proj|up_proj|down_proj)"},
)


@pytest.fixture
def shims() -> Iterator[None]:
    for shim in (peft_targets.SHIM, SHIM):
        shim.put()
    yield
    for shim in (peft_targets.SHIM, SHIM):
        shim.take()


def wrapped(model: Any) -> list[str]:
    return [name for name, _ in model.named_parameters() if "lora_" in name]


def test_without_it_peft_leaves_the_model_half_adapted() -> None:
    """If this fails, PEFT has mended it, and the shim has retired itself."""
    model = tiny_trainer_moe()
    with pytest.raises(ValueError, match="does not work with lora_dropout"):
        peft.get_peft_model(model, peft.LoraConfig(lora_dropout=0.1, **CONFIGS[1]))
    assert wrapped(model)
    assert SHIM.row().state == "needed"


@pytest.mark.usefixtures("shims")
@pytest.mark.parametrize("config", CONFIGS)
def test_with_it_the_refusal_names_the_parameter_and_the_model_is_as_before(config: dict[str, Any]) -> None:
    model = tiny_trainer_moe()
    with pytest.raises(HardpointError, match=r"lora_dropout=0\.1 cannot be applied to model\.layers\.0\.mlp\.experts"):
        peft.get_peft_model(model, peft.LoraConfig(lora_dropout=0.1, **config))
    assert wrapped(model) == []
    peft.get_peft_model(model, peft.LoraConfig(lora_dropout=0.0, **config))
    assert wrapped(model)


@pytest.mark.usefixtures("shims")
def test_dropout_on_linear_layers_stays_allowed() -> None:
    model = peft.get_peft_model(tiny_trainer_moe(), peft.LoraConfig(lora_dropout=0.1, target_modules=["q_proj"]))
    assert wrapped(model)
    # A parameter that is not in this model takes no dropout: PEFT warns about it by itself.
    refuse_dropout_on_experts(
        peft.LoraConfig(lora_dropout=0.1, target_modules=["q_proj"], target_parameters=["experts.nothing"]),
        tiny_trainer_moe(),
    )


@pytest.mark.usefixtures("shims")
def test_a_second_adapter_is_refused_on_the_wrapped_model() -> None:
    model = peft.get_peft_model(tiny_trainer_moe(), peft.LoraConfig(**CONFIGS[1]))
    before = wrapped(model)
    with pytest.raises(HardpointError, match=r"cannot be applied to model\.layers\.0\.mlp\.experts\.gate_up_proj"):
        model.add_adapter("second", peft.LoraConfig(lora_dropout=0.1, **CONFIGS[1]))
    assert wrapped(model) == before


def test_it_retires_when_peft_refuses_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from peft.tuners.lora.model import LoraModel

    def refuse(self: Any, config: Any) -> None:
        raise ValueError("no dropout on parameters")

    monkeypatch.setattr(LoraModel, "_check_new_adapter_config", refuse)
    row = SHIM.apply()
    assert (row.state, SHIM.installed()) == ("retired", False)
    assert "before anything is wrapped" in row.why
