"""Limits that a profile lays over the simulator: dtypes without arithmetic, grids, streams of graphs, task updates."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from hardpoint.errors import DeviceError
from hardpoint_npu.runtime import NpuRuntime
from hardpoint_sim.backend import build
from hardpoint_sim.vendor import LIMITS, Limits, SimRuntime, limits_of
from hardpoint_xpu.runtime import XpuRuntime


def over(profile: str) -> SimRuntime:
    backend: Any = build({})
    return SimRuntime(backend.device.engine, limits_of(profile))


@pytest.mark.parametrize("protocol", [NpuRuntime, XpuRuntime])
def test_the_simulator_has_all_that_a_runtime_is_asked_for(protocol: type) -> None:
    runtime = over("npu")
    for name, wanted in inspect.getmembers(protocol):
        if name.startswith("_") or not (callable(wanted) or isinstance(wanted, property)):
            continue
        assert hasattr(runtime, name), name
        if callable(wanted):
            ours, theirs = inspect.signature(getattr(runtime, name)), inspect.signature(wanted)
            assert list(ours.parameters) == list(theirs.parameters)[1:], name


def test_limits_go_by_the_first_part_of_the_name() -> None:
    assert limits_of("xpu-sleep") is LIMITS["xpu"]
    assert limits_of("acme") == Limits()


def test_a_missing_dtype_is_moved_and_not_computed() -> None:
    over("xpu")
    host = torch.arange(4, dtype=torch.float64)
    there = host.to("sim").clone()
    assert torch.equal(torch.cat([there, there]).cpu(), torch.cat([host, host]))
    with pytest.raises(DeviceError, match="no arithmetic in float64"):
        there + there
    build({})
    assert torch.equal((host.to("sim") * 2).cpu(), host * 2)  # a limit is of one simulator


def test_a_grid_over_the_limit_fails_in_the_driver() -> None:
    runtime = over("npu")
    backend: Any = build({})
    launcher = runtime.launcher(backend.device, lambda: False)
    out = torch.zeros(4, dtype=torch.int32, device=backend.device.torch_device(0))
    with pytest.raises(DeviceError, match=r"65536 programs, the chip starts 65535"):
        launcher.launch(runtime.fill_kernel(), out, 4, grid=(256, 256))


def test_live_graphs_hold_streams_and_dropped_ones_give_them_back() -> None:
    runtime = over("npu")
    graphs = [runtime.new_graph() for _ in range(9)]
    for graph in graphs[:8]:
        with runtime.capture(graph, 0):
            pass
    with pytest.raises(DeviceError, match="207008"), runtime.capture(graphs[8], 0):
        pass
    del graph, graphs[0]
    with runtime.capture(graphs[-1], 0):
        pass


def test_an_update_needs_as_many_kernels_as_the_task() -> None:
    runtime = over("npu")
    value = torch.ones(2, device="sim:0")
    graph = runtime.new_graph()
    with runtime.capture(graph, 0):
        stream = runtime.current_stream(0)
        runtime.graph_task_group_begin(stream)
        value.add_(1.0)
        handle = runtime.graph_task_group_end(stream)
    side = runtime.new_stream(0)
    runtime.graph_task_update_begin(side, handle)
    with pytest.raises(DeviceError, match="the task has 1 kernels, the update 0"):
        runtime.graph_task_update_end(side)
    graph.replay()
    assert value.tolist() == [2.0, 2.0]
    with pytest.raises(DeviceError, match="which is not being captured"):
        runtime.graph_task_group_begin(side)
