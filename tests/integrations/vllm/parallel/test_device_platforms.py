"""The platforms and communicators for CUDA and XPU, on vLLM's own classes, without a device; nothing ran on one.

vLLM's modules for a device import its compiled parts; empty modules stand in for these, in a process of its own, so
that the classes are the real ones and no other test sees the stand-ins.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hardpoint.dp import DpRule
from hardpoint_vllm.platform import PLATFORMS, settings

TESTS = Path(__file__).resolve().parents[3]

QUESTION = """
import inspect, json, sys, types
from types import SimpleNamespace
for name in ("vllm._C_stable_libtorch", "vllm._moe_C_stable_libtorch", "vllm_xpu_kernels", "vllm_xpu_kernels._C",
             "vllm_xpu_kernels._moe_C", "vllm_xpu_kernels._xpu_C"):
    sys.modules.setdefault(name, types.ModuleType(name)).__path__ = []
kind = sys.argv[1]
import vllm.platforms.interface as interface
from hardpoint_vllm.platform import PLATFORMS
from vllm.utils.import_utils import resolve_obj_by_qualname as resolve
base, ours = resolve(PLATFORMS[kind].base), resolve(PLATFORMS[kind].qualname)
communicator = resolve(ours.get_device_communicator_cls())
stock = resolve(base.get_device_communicator_cls())
def updated(cls, vllm_config): vllm_config.called = True
for owner in base.__mro__:
    if "check_and_update_config" in vars(owner):
        owner.check_and_update_config = classmethod(updated)
        break
config = SimpleNamespace(
    parallel_config=SimpleNamespace(enable_expert_parallel=True, data_parallel_size=2, worker_cls="auto",
                                    cpu_distributed_timeout_seconds=None, distributed_timeout_seconds=None),
    scheduler_config=SimpleNamespace(async_scheduling=True), called=False)
from hardpoint_vllm.platform import settings
from hardpoint.dp import DpRule
settings.rule = lambda: DpRule(async_scheduling=kind != "xpu")
ours.check_and_update_config(config)
takes = {name: [p for p in inspect.signature(getattr(communicator, name)).parameters]
         for name in ("all_gatherv", "reduce_scatterv")}
from vllm.distributed.device_communicators.all2all import AgRsAll2AllManager
from hardpoint_vllm.parallel.all2all import HardpointAll2AllManager, with_barrier
manager = with_barrier(object.__new__(AgRsAll2AllManager))
other = with_barrier(types.SimpleNamespace())
print(json.dumps({
    "enum": ours._enum.name == base._enum.name, "subclass": issubclass(ours, base),
    "communicator": issubclass(communicator, stock), "first": communicator.__mro__[1].__name__,
    "called": config.called, "seconds": config.parallel_config.cpu_distributed_timeout_seconds,
    "device_seconds": config.parallel_config.distributed_timeout_seconds,
    "async": config.scheduler_config.async_scheduling,
    "manager": type(manager) is HardpointAll2AllManager, "other": type(other).__name__,
}))
"""


@pytest.fixture(scope="module", params=["cuda", "xpu"])
def found(request: pytest.FixtureRequest) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, "-c", QUESTION, request.param],
        capture_output=True, text=True, timeout=200, check=False, env=_environment(),
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    return {"kind": request.param} | json.loads(ran.stdout.strip().splitlines()[-1])


def _environment() -> dict[str, str]:
    import os

    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HARDPOINT_", "VLLM_"))}
    return kept | {"HARDPOINT_BACKEND": "cpu", "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}


def test_they_are_vllms_own_classes_with_the_in_tree_identity(found: dict[str, Any]) -> None:
    assert found["enum"]
    assert found["subclass"]
    assert found["communicator"]
    assert found["first"] == "WatchedRagged", "what records comes before vLLM's own collectives"


def test_vllms_configuration_first_then_deadline_and_scheduler(found: dict[str, Any]) -> None:
    assert found["called"]
    assert found["seconds"] == 300
    assert found["device_seconds"] is None, "NCCL's own timeout ends the process without a name"
    assert found["async"] is (found["kind"] != "xpu")


def test_the_gather_and_scatter_manager_meets_and_others_stay(found: dict[str, Any]) -> None:
    assert found["manager"]
    assert found["other"] == "SimpleNamespace"


def config(ep: bool, seconds: int | None = None) -> Any:
    return SimpleNamespace(
        parallel_config=SimpleNamespace(
            enable_expert_parallel=ep,
            data_parallel_size=2,
            cpu_distributed_timeout_seconds=seconds,
            distributed_timeout_seconds=None,
        ),
        scheduler_config=SimpleNamespace(async_scheduling=True),
    )


@pytest.mark.parametrize(("ep", "allowed", "stays"), [(True, False, False), (True, True, True), (False, False, True)])
def test_the_scheduler_runs_ahead_unless_the_rule_forbids(
    monkeypatch: pytest.MonkeyPatch, ep: bool, allowed: bool, stays: bool
) -> None:
    monkeypatch.setattr(settings, "rule", lambda: DpRule(async_scheduling=allowed))
    made = config(ep)
    settings.prepare(made, host_memory=True)
    assert made.scheduler_config.async_scheduling is stays
    assert made.parallel_config.distributed_timeout_seconds == 300


def test_a_timeout_that_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDPOINT_COLLECTIVE_DEADLINE", "0.5")
    made = config(False, 77)
    settings.prepare(made, host_memory=True)
    assert made.parallel_config.cpu_distributed_timeout_seconds == 77
    assert made.parallel_config.distributed_timeout_seconds == 1, "whole seconds, and never none"


def test_every_platform_names_what_vllm_would_choose() -> None:
    assert set(PLATFORMS) == {"cpu", "cuda", "xpu"}
    for kind, each in PLATFORMS.items():
        assert each.base.startswith(f"vllm.platforms.{kind}.")


XPU = """
import json, sys, types
sys.path.insert(0, sys.argv[1])
for name in ("vllm_xpu_kernels", "vllm_xpu_kernels._C"):
    sys.modules.setdefault(name, types.ModuleType(name))
import torch
from hardpoint_vllm.parallel.xpu_communicator import _Gathers
rows = {0: torch.arange(6.).view(2, 3), 1: torch.arange(10., 13.).view(1, 3)}
def gather(every, mine, group):
    other = rows[1 - place.rank_in_group]
    padded = torch.zeros_like(mine)
    padded[: other.shape[0]] = other
    parts = [mine, padded] if place.rank_in_group == 0 else [padded, mine]
    every.copy_(torch.cat(parts))
torch.distributed.all_gather_into_tensor = gather
answers = []
for rank in (0, 1):
    place = object.__new__(_Gathers)
    place.world_size, place.rank_in_group, place.device_group = 2, rank, None
    answers.append(place.all_gatherv([rows[rank]], 0, [2, 1])[0].tolist())
try:
    place.all_gatherv(rows[1], 0, [2, 2])
except ValueError as error:
    answers.append(str(error))
print(json.dumps(answers))
"""


def test_ragged_rows_on_xpu_come_in_rank_order_without_padding() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", XPU, str(TESTS)], capture_output=True, text=True, timeout=200, check=False,
        env=_environment(),
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    first, second, refused = json.loads(ran.stdout.strip().splitlines()[-1])
    assert first == second == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [10.0, 11.0, 12.0]]
    assert refused.startswith("all_gatherv on rank 1 of 2: sizes should hold the rows of each rank, got [2, 2]")
