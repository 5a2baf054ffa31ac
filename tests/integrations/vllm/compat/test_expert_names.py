"""Fused experts under per-expert names, for the models that know no others."""

from __future__ import annotations

import pytest
import torch

from hardpoint.errors import LayoutError
from hardpoint.moe import FUSED, LayoutDescriptor, ReferenceMoELayout
from hardpoint_vllm.compat.expert_names import expand, needs_expanding

LAYER = "model.layers.3.mlp"


def test_each_expert_gets_its_own_gate_up_and_down_without_a_copy() -> None:
    gate_up, down = torch.randn(3, 8, 5), torch.randn(3, 5, 4)
    norm = torch.ones(5)
    found = dict(
        expand([(f"{LAYER}.experts.gate_up_proj", gate_up), ("norm", norm), (f"{LAYER}.experts.down_proj", down)])
    )
    assert len(found) == 10
    assert found["norm"] is norm
    for expert in range(3):
        name = f"{LAYER}.experts.{expert}"
        assert torch.equal(found[f"{name}.gate_proj.weight"], gate_up[expert, :4])
        assert torch.equal(found[f"{name}.up_proj.weight"], gate_up[expert, 4:])
        assert torch.equal(found[f"{name}.down_proj.weight"], down[expert])
        assert found[f"{name}.up_proj.weight"].untyped_storage().data_ptr() == gate_up.untyped_storage().data_ptr()


def test_it_is_the_same_as_what_a_layout_takes_from_the_fused_form() -> None:
    layout, descriptor = ReferenceMoELayout(), LayoutDescriptor(3, 8, 4, dtype=torch.float32)
    fused = {f"{LAYER}.experts.gate_up_proj": torch.randn(3, 8, 8), f"{LAYER}.experts.down_proj": torch.randn(3, 8, 4)}
    from_fused = layout.pack(fused, descriptor, device="cpu", layer=LAYER, checkpoint=FUSED)
    from_names = layout.pack(dict(expand(fused.items())), descriptor, device="cpu", layer=LAYER)
    assert torch.equal(from_fused.w13_weight, from_names.w13_weight)
    assert torch.equal(from_fused.w2_weight, from_names.w2_weight)


def test_what_is_not_fused_passes() -> None:
    others = [
        (f"{LAYER}.experts.0.gate_proj.weight", torch.zeros(4, 5)),
        (f"{LAYER}.shared_expert.gate_proj.weight", torch.zeros(4, 5)),
        (f"{LAYER}.gate_up_proj.weight", torch.zeros(3, 8, 5)),
        (f"{LAYER}.experts.gate_up_proj", torch.zeros(8, 5)),
    ]
    assert [name for name, _ in expand(others)] == [name for name, _ in others]


def test_an_odd_number_of_rows_is_refused_by_name() -> None:
    with pytest.raises(
        LayoutError, match=rf"{LAYER}\.experts\.gate_up_proj must hold gate and up .* found \[3, 7, 5\]"
    ):
        list(expand([(f"{LAYER}.experts.gate_up_proj", torch.zeros(3, 7, 5))]))


class _Model(torch.nn.Module):
    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names

    def get_expert_mapping(self) -> list[tuple[str, str, int, str]]:
        return [("experts.w13_", name, 0, "w1") for name in self.names]


def test_only_a_model_with_a_table_of_per_expert_names_needs_it() -> None:
    assert needs_expanding(_Model("experts.0.gate_proj.", "experts.0.down_proj."))
    assert not needs_expanding(_Model("experts.gate_up_proj.", "experts.down_proj."))
    assert not needs_expanding(torch.nn.Linear(1, 1))


def test_vllms_own_expert_layers_take_fused_names() -> None:
    """If this fails, `needs_expanding` must know the models that leave experts to vLLM's layers."""
    import inspect

    experts = pytest.importorskip("vllm.model_executor.layers.fused_moe.routed_experts", reason="vLLM is not installed")
    assert "include_fused" in inspect.signature(experts.RoutedExperts.get_expert_mapping).parameters
