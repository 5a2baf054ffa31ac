"""The repairs on the releases of PEFT that have the faults: one process per release, as a trainer would call them."""

from __future__ import annotations

import pytest

from support.old_releases import run_with

PROGRAM = r"""
import peft
from hardpoint_trainers import compat
from support.trainer_models import tiny_trainer_moe

PATTERN = r".*layers\.1\..*\.(q_proj|gate_proj|up_proj|down_proj)"
EXPERTS = {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj"]}

def adapt(**options):
    model, error = tiny_trainer_moe(), ""
    try:
        peft.get_peft_model(model, peft.LoraConfig(r=2, **options))
    except Exception as raised:
        error = type(raised).__name__
    left = {n.split(".lora_")[0].removeprefix("model.") for n, _ in model.named_parameters() if "lora_" in n}
    return [error, sorted(left)]

before = [[row.state for row in compat.rows()], adapt(target_modules=PATTERN), adapt(lora_dropout=0.1, **EXPERTS)]
rows = compat.install()
again = compat.install()
after = [[row.state for row in rows], adapt(target_modules=PATTERN), adapt(lora_dropout=0.1, **EXPERTS)]
answer = {"before": before, "after": after, "hosts": [row.host for row in again], "why": [row.why for row in rows]}
"""
LAYER_1 = ["layers.1.mlp.experts", "layers.1.mlp.experts.base_layer", "layers.1.self_attn.q_proj"]


@pytest.mark.parametrize("release", ["0.19.1", "0.20.0"])
def test_releases_with_both_faults(release: str) -> None:
    found = run_with(f"peft-{release}", PROGRAM)
    assert found["hosts"] == [f"peft {release}"] * 2
    states, regex, dropout = found["before"]
    assert states == ["needed", "needed"]
    assert regex != ["", LAYER_1]
    assert dropout[0] == "ValueError"
    assert dropout[1]
    states, regex, dropout = found["after"]
    assert states == ["active", "active"]
    assert regex == ["", LAYER_1]
    assert dropout == ["HardpointError", []]


def test_a_release_that_converts_nothing_needs_no_repair_of_the_conversion() -> None:
    found = run_with("peft-0.18.1", PROGRAM)
    assert found["before"][0] == ["retired", "needed"]
    assert found["after"][0] == ["retired", "active"]
    assert "0.18.1 is not one of those" in found["why"][0]
    assert found["after"][1] == found["before"][1] == ["", ["layers.1.self_attn.q_proj"]]
    assert found["after"][2] == ["HardpointError", []]
