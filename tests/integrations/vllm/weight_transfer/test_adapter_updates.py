"""Adapter-only updates in a real engine with LoRA: the same tokens as from a folder, or the old adapter's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.adapters import qwen3_dense
from support.vllm_engine import ask

pytestmark = pytest.mark.vllm
Answer = dict[str, Any]
Q = "base_model.model.model.layers.1.self_attn.q_proj"
FAULTS = {  # what the refusal names
    "half a pair": f"1 missing: {Q}.lora_B.weight",
    "no pair of one module": f"2 missing: {Q}.lora_A.weight, {Q}.lora_B.weight",
    "half the rows": f"1 in another form: {Q}.lora_B.weight",
    "another rank": "in another form: base_model.model.model.layers.0",
    "a module that is not there": f"1 not of this adapter: {Q.replace('.1.', '.9.')}.lora_A.weight",
    "a base weight": f"1 not of this adapter: {Q}.base_layer.weight",
    "nan": f"{Q}.lora_B.weight",
    "nothing": "20 missing: base_model.model.model.layers.0.",
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Answer:
    folder: Path = tmp_path_factory.mktemp("adapter")
    return ask("sync_adapter", folder, "cpu", str(qwen3_dense(folder / "base")))


@pytest.mark.parametrize("seed", ["1", "2"])
def test_an_adapter_from_the_trainer_serves_as_one_from_a_folder(served: Answer, seed: str) -> None:
    said = served["good"][seed]
    assert (said["trainer"], said["error"]) == (True, None)
    assert said["tokens"] == served["stock"][seed] != served["base"]
    assert said["base"] == served["base"]  # requests without the adapter
    assert said["version"] == seed


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_one_is_refused_by_name_and_the_old_one_serves(served: Answer, fault: str) -> None:
    said = served["faults"][fault]
    assert FAULTS[fault] in said["error"], said
    assert FAULTS[fault] in said["trainer"], said
    assert said["tokens"] == served["stock"]["2"]
    assert served["version after faults"] == "2"


def test_a_slot_that_was_half_filled_has_the_old_one_back(served: Answer) -> None:
    assert "MemoryError: no room for the second half" in served["commit"]["error"]
    assert "the old one is back" in served["commit"]["error"]
    assert served["commit"]["tokens"] == served["stock"]["2"]


def test_other_adapters_do_not_push_it_out(served: Answer) -> None:
    assert served["after others"] == served["stock"]["2"]


def test_the_next_good_one_serves(served: Answer) -> None:
    assert served["next"]["error"] is None
    assert served["next"]["tokens"] == served["stock"]["3"]
    assert int(served["next"]["version"]) > 2
