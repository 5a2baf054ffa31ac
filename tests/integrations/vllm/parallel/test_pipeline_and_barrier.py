"""Receive buffers of a pipeline stage, its cache layouts, and the barrier before MoE collectives; without an engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.distributed.device_communicators.all2all import AgRsAll2AllManager

from hardpoint.dp import DpRule
from hardpoint_vllm.parallel import all2all, pipeline


class Runner:
    """What `pipeline.prepare` reads of vLLM's model runner."""

    def __init__(self) -> None:
        self.intermediate_tensors: Any = None
        self.max_num_tokens, self.device = 40, torch.device("cpu")
        self.model_config = SimpleNamespace(dtype=torch.bfloat16)
        self.model = self

    def make_empty_intermediate_tensors(self, batch_size: int, dtype: torch.dtype, device: torch.device) -> Any:
        return {"hidden_states": torch.zeros(batch_size, 8, dtype=dtype, device=device)}


def test_a_later_stage_gets_its_buffers_once() -> None:
    runner = Runner()
    assert pipeline.prepare(runner, first_stage=False)
    made = runner.intermediate_tensors
    assert made["hidden_states"].shape == (40, 8)
    assert made["hidden_states"].dtype == torch.bfloat16
    assert not pipeline.prepare(runner, first_stage=False)
    assert runner.intermediate_tensors is made


def test_the_first_stage_receives_nothing() -> None:
    runner = Runner()
    assert not pipeline.prepare(runner, first_stage=True)
    assert runner.intermediate_tensors is None


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (["LBNHC", "LBHNC", "BLNHC"], ["LBHNC"]),  # a stage without attention names all
        (["LBHNC"], ["LBHNC"]),
        (["LBNHC"], ["LBNHC"]),  # nothing in common: vLLM decides
    ],
)
def test_all_stages_name_the_layouts_of_attention(
    monkeypatch: pytest.MonkeyPatch, named: list[str], expected: list[str]
) -> None:
    from vllm.v1.worker.cpu_worker import CPUWorker

    from hardpoint_vllm.parallel.cpu_worker import HardpointCpuWorker

    monkeypatch.setattr(CPUWorker, "get_supported_kv_cache_layouts", lambda self: named)
    assert object.__new__(HardpointCpuWorker).get_supported_kv_cache_layouts() == expected


@pytest.fixture
def happened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Barriers and collectives in order."""
    events: list[str] = []
    for name in ("dispatch_router_logits", "dispatch", "combine"):
        monkeypatch.setattr(AgRsAll2AllManager, name, lambda self, *args, _name=name, **kwargs: events.append(_name))
    groups = {False: SimpleNamespace(cpu_group="dp"), True: SimpleNamespace(cpu_group="ep")}
    monkeypatch.setattr(
        AgRsAll2AllManager, "_get_comm_group", lambda self, sequence_parallel: groups[sequence_parallel]
    )
    monkeypatch.setattr(torch.distributed, "barrier", lambda group: events.append(f"barrier of {group}"))
    return events


def calls() -> None:
    manager = object.__new__(all2all.HardpointAll2AllManager)
    manager.dispatch_router_logits("hidden", "logits")
    manager.dispatch("hidden", "weights", "ids", True)
    manager.combine("hidden", is_sequence_parallel=True)


def test_the_ranks_meet_before_each_collective_where_the_rule_says_so(
    monkeypatch: pytest.MonkeyPatch, happened: list[str]
) -> None:
    monkeypatch.setattr(all2all, "rule", lambda: DpRule(barrier_before_moe=True))
    calls()
    assert happened == [
        "barrier of dp", "dispatch_router_logits", "barrier of ep", "dispatch", "barrier of ep", "combine",
    ]  # fmt: skip


@pytest.mark.parametrize("capturing", [False, True])
def test_no_barrier_by_other_rules_or_in_a_capture(
    monkeypatch: pytest.MonkeyPatch, happened: list[str], capturing: bool
) -> None:
    monkeypatch.setattr(all2all, "rule", lambda: DpRule(barrier_before_moe=capturing))
    monkeypatch.setattr(all2all, "capturing", lambda: capturing)
    calls()
    assert happened == ["dispatch_router_logits", "dispatch", "combine"]
