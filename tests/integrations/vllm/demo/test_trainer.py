"""The faults that the demo plants into an update."""

from __future__ import annotations

import pytest

from hardpoint_vllm.demo.trainer import FAULTS, drop_expert, swap_experts

NAMES = [f"model.layers.{layer}.mlp.experts.{expert}.down_proj.weight" for layer in (0, 1) for expert in range(4)]


def test_swapped_experts_have_each_others_names_and_nothing_is_lost() -> None:
    tensors = {name: number for number, name in enumerate([*NAMES, "model.norm.weight"])}
    swapped = swap_experts(tensors)
    assert sorted(swapped) == sorted(tensors)
    moved = {name for name in tensors if swapped[name] != tensors[name]}
    assert moved == {name for name in NAMES if ".experts.0." in name or ".experts.1." in name}
    assert swap_experts(swapped) == tensors


def test_a_dropped_expert_lacks_one_tensor() -> None:
    tensors = dict.fromkeys(NAMES, 0)
    assert set(tensors) - set(drop_expert(tensors)) == {NAMES[3]}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_leaves_the_trainers_own_weights_alone(fault: str) -> None:
    tensors = dict(zip(NAMES, range(len(NAMES)), strict=True))
    before = dict(tensors)
    assert FAULTS[fault](tensors) != before
    assert tensors == before
