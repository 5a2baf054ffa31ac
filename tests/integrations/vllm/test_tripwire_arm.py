"""A packed parameter refuses raw loads, and lets pass what its loader would not have loaded anyway."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hardpoint.errors import LayoutError
from hardpoint_vllm.tripwire.arm import MARK, _refusing_loader

vllm = pytest.importorskip("vllm", reason="vLLM is not installed")


class Experts(torch.nn.Module):
    """Rank 1 of 2: experts 2 and 3 of 4 are its own."""

    def _map_global_expert_id_to_local_expert_id(self, expert: int) -> int:
        return {2: 0, 3: 1}.get(expert, -1)


def armed(module: torch.nn.Module, calls: list[Any]) -> Any:
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    parameter.weight_loader = lambda *args, **kwargs: calls.append((args, kwargs))  # type: ignore[attr-defined]
    return _refusing_loader("layers.0.w13_weight", "its elements were moved", module, parameter, "raise")


def test_experts_of_other_ranks_pass_and_own_ones_are_refused() -> None:
    """A reload with expert parallelism offers every expert to every rank, also after a layer has all of its own."""
    calls: list[Any] = []
    loader = armed(Experts(), calls)
    assert hasattr(loader, MARK)
    loader(param=None, loaded_weight=None, weight_name="w", shard_id="w1", expert_id=0, return_success=True)
    loader(None, None, "w", "w1", 1)
    assert len(calls) == 2
    with pytest.raises(LayoutError, match=r"Raw load_weights into layers\.0\.w13_weight refused"):
        loader(param=None, loaded_weight=None, weight_name="w", shard_id="w1", expert_id=2, return_success=True)
    with pytest.raises(LayoutError):
        loader(None, None, "w", "w1", 3)
    assert len(calls) == 2


def test_a_layer_without_experts_refuses_every_load() -> None:
    calls: list[Any] = []
    with pytest.raises(LayoutError):
        armed(torch.nn.Linear(1, 1), calls)(None, None, "q")
    assert calls == []
