"""What the npu backend offers of vllm-ascend, by version and by signature, without either."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch

import hardpoint_npu
from hardpoint.launcher import KernelOffer, Refusal
from hardpoint_npu import kernels
from hardpoint_sim.backend import build as build_sim

# As it stands in the wheels of 0.23.0 and 0.26.0rc1.
SCHEMA = (
    "npu_recurrent_gated_delta_rule(Tensor query, Tensor key, Tensor value, Tensor(a!) state, *, Tensor? beta=None, "
    "float? scale=None, Tensor? actual_seq_lengths=None, Tensor? ssm_state_indices=None, "
    "Tensor? num_accepted_tokens=None, Tensor? g=None, Tensor? gk=None) -> Tensor"
)


def test_it_is_offered_by_version(monkeypatch: pytest.MonkeyPatch) -> None:
    op = kernels.RECURRENT_RULE
    assert kernels.offer(op) == Refusal(op, "vllm-ascend", "vllm-ascend is not installed")
    monkeypatch.setattr(kernels, "version", lambda name: "0.18.0")
    refused = kernels.offer(op)
    assert isinstance(refused, Refusal) and "requires vllm-ascend 0.23 or newer" in refused.reason
    for found in ("0.23.0", "0.26.0rc1", "1.0"):
        monkeypatch.setattr(kernels, "version", lambda name, found=found: found)
        offered = kernels.offer(op)
        assert isinstance(offered, KernelOffer) and offered.provider == f"vllm-ascend {found}"
    assert kernels.offer("gdn_decode") is None


def test_the_call_fits_the_op_schema_and_hands_every_argument_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """An op with the real schema, registered for the host: torch itself refuses another call."""
    library = torch.library.Library("_C_ascend", "FRAGMENT")
    library.define(SCHEMA)
    seen: dict[str, Any] = {}

    def run(query: Any, key: Any, value: Any, state: Any, **named: Any) -> torch.Tensor:
        seen.update(query=query, key=key, value=value, state=state, **named)
        return value.clone()

    library.impl("npu_recurrent_gated_delta_rule", run, "CPU")
    for name in ("vllm_ascend", "vllm_ascend.vllm_ascend_C"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    given = {
        "query": torch.rand(2, 1, 4), "key": torch.rand(2, 1, 4), "value": torch.rand(2, 2, 4),
        "state": torch.rand(3, 2, 4, 4), "beta": torch.rand(2, 2), "g": -torch.rand(2, 2),
        "actual_seq_lengths": torch.tensor([1, 1]), "ssm_state_indices": torch.tensor([2, 0]),
    }  # fmt: skip
    out = kernels.recurrent_gated_delta_rule(**given, scale=0.5)
    assert torch.equal(out, given["value"])
    assert seen["scale"] == 0.5 and all(torch.equal(seen[name], tensor) for name, tensor in given.items())


def test_the_hook_stays_out_of_other_backends() -> None:
    sim: Any = build_sim({})
    assert hardpoint_npu.hardpoint_kernel(kernels.RECURRENT_RULE, sim) is None
