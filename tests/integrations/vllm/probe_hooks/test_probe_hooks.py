"""Hooks of the probe on a module tree like vLLM's: which layers, which tensors, which batch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hardpoint.explain import explain_nan, read_sources
from hardpoint.probe import KIND, Batch, Ranks, read_report
from hardpoint_vllm.probe_hooks import attach
from hardpoint_vllm.probe_hooks.batch import batch_of
from hardpoint_vllm.probe_hooks.layers import watched


class Attention(nn.Module):
    pass


class Block(nn.Module):
    """Softmax attention: positions first, as vLLM's models have it."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = Attention()
        self.spoil: tuple[int, ...] = ()

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        output = hidden_states * 1.0
        output[list(self.spoil)] = float("nan")
        return output


class QwenGatedDeltaNetAttention(nn.Module):
    """An older form: the caller hands in the buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Attention()

    def forward(self, hidden_states: torch.Tensor, output: torch.Tensor) -> None:
        output.copy_(hidden_states)


class SparseMoeBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.Linear(4, 4)

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, None]:
        return hidden_states * 1.0, None


class Layer(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind == "gdn":
            self.linear_attn = QwenGatedDeltaNetAttention()
        else:
            self.self_attn = Block()
        self.mlp = SparseMoeBlock()

    def forward(self, positions: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        if hasattr(self, "linear_attn"):
            buffer = torch.empty_like(hidden)
            self.linear_attn(hidden_states=hidden, output=buffer)
        else:
            buffer = self.self_attn(positions=positions, hidden_states=hidden)
        return self.mlp(buffer)[0]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer("gdn"), Layer("attention")])

    def forward(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        hidden = torch.ones(positions.shape[-1], 4)
        for layer in self.layers:
            hidden = layer(positions, hidden)
        return hidden


def runner(model: nn.Module, starts: list[int], lengths: list[int]) -> Any:
    buffer = np.zeros(16, dtype=np.int32)
    buffer[: len(starts)] = starts
    return SimpleNamespace(
        model=model,
        max_num_tokens=64,
        input_batch=SimpleNamespace(num_reqs=len(lengths)),
        query_start_loc=SimpleNamespace(np=buffer),
        optimistic_seq_lens_cpu=torch.tensor(lengths + [0] * 4, dtype=torch.int32),
    )


CONFIG = SimpleNamespace(compilation_config=SimpleNamespace(mode=0))


def test_layers_are_found_by_what_they_are() -> None:
    found = [(each.layer.number, each.layer.kind, each.layer.name) for each in watched(Model())]
    assert found == [
        (0, "gdn", "layers.0.linear_attn"),
        (0, "moe", "layers.0.mlp"),
        (1, "attention", "layers.1.self_attn"),
        (1, "moe", "layers.1.mlp"),
    ]


def test_a_step_of_fr4_through_the_hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDPOINT_PROBE", "nan,mask")
    monkeypatch.setenv("HARDPOINT_PROBE_REPORTS", str(tmp_path))
    context = SimpleNamespace(attn_metadata=None)
    monkeypatch.setattr("vllm.forward_context.get_forward_context", lambda: context)
    model = Model()
    probe = attach.attach(runner(model, [0, 5, 10, 18, 26], [5, 5, 8, 8]), CONFIG, Ranks())
    assert probe is not None
    model.layers[1].self_attn.spoil = (26, 27, 28, 29)
    model(None, torch.arange(30))
    assert not list(tmp_path.iterdir()), "warm-up has no metadata, and nothing is said"
    context.attn_metadata = {"layers.1.self_attn.attn": SimpleNamespace(num_actual_tokens=30)}
    model(None, torch.arange(30))
    probe.close()
    found = explain_nan([read_report(data, source) for source, data in read_sources([tmp_path], KIND)])
    assert [origin.title for origin in found.origins] == ["padding rows 26-29 counted as real on dp_rank 0"]
    assert any("MoE layer 1" in line for line in found.followed)


def test_a_compiled_model_is_left_alone_aloud(caplog: pytest.LogCaptureFixture) -> None:
    model = Model()
    config = SimpleNamespace(compilation_config=SimpleNamespace(mode=3))
    with caplog.at_level("WARNING", logger="vllm.hardpoint.probe"):
        assert attach.attach(runner(model, [0], []), config, Ranks()) is None
    assert not model._forward_hooks


def test_batches_from_metadata_where_the_runner_is_another() -> None:
    metadata = SimpleNamespace(
        num_actual_tokens=3, query_start_loc=torch.tensor([0, 1, 3]), seq_lens=torch.tensor([4, 2])
    )
    assert batch_of(object(), [{"a": object(), "b": metadata}]) == Batch(3, (0, 1, 3), (4, 2))
    assert batch_of(object(), metadata) == Batch(3, (0, 1, 3), (4, 2))
    assert batch_of(object(), None) is None
    assert batch_of(object(), {}) is None


def test_nothing_is_patched_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARDPOINT_PROBE", raising=False)
    assert attach.install() is False
