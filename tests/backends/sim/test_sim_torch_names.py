"""torch's own names are true of the simulator; in plain torch 2.13 with a Python backend each of these is a lie."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch

from hardpoint_sim.event import SimEvent
from hardpoint_sim.stream import SimStream
from support.simulator import Simulator, simulator


@pytest.fixture
def sim() -> Simulator:
    return simulator()


def test_plain_torch_lies_here() -> None:
    # If this fails, torch tells the truth by itself, and hardpoint_sim.torch_names can go.
    code = """
import torch
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend
class Module(_DummyBackendModule):
    def device_count(self): return 2
_setup_privateuseone_for_python_backend("sim", backend_module=Module())
torch.accelerator.set_device_index(1)
print(torch.accelerator.current_device_index(), torch.Stream(device="sim:1").device_index,
      torch.Stream(device="sim:0") == torch.Stream(device="sim:0"), torch.Event(device="sim").query())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["0", "0", "True", "True"]


def test_the_accelerators_current_device_is_the_threads(sim: Simulator) -> None:
    with torch.accelerator.device_index(1):
        assert torch.accelerator.current_device_index() == sim.device.current() == 1
        seen: list[int] = []
        thread = threading.Thread(target=lambda: seen.append(torch.accelerator.current_device_index()))
        thread.start()
        thread.join(timeout=10)
        assert seen == [0]
    assert torch.accelerator.current_device_index() == 0
    torch.accelerator.set_device_index(1)
    try:
        assert torch.ones(1, device="sim").device.index == 1
    finally:
        torch.accelerator.set_device_index(0)


def test_the_accelerator_waits_for_all_streams(sim: Simulator) -> None:
    side = torch.Stream(device="sim:1")
    with side:
        torch.ones(1, device="sim:1")
    assert not side.query()
    torch.accelerator.synchronize(1)
    assert side.query()
    free, total = torch.accelerator.get_memory_info(1)
    assert 0 < free <= total


def test_streams_are_distinct_and_on_their_device(sim: Simulator) -> None:
    first, second = torch.Stream(device="sim:1"), torch.Stream(device="sim:1")
    assert isinstance(first, SimStream)
    assert isinstance(first, torch.Stream)
    assert first is not second
    assert first.device == torch.device("sim", 1)
    torch.accelerator.set_stream(first)
    try:
        assert torch.accelerator.current_stream() is first
    finally:
        torch.accelerator.set_stream(sim.engine.state(1).default_stream)
        torch.accelerator.set_stream(sim.engine.state(0).default_stream)


def test_events_tell_when_they_are_done(sim: Simulator) -> None:
    event = torch.Event(device="sim", enable_timing=True)
    assert isinstance(event, SimEvent)
    assert isinstance(event, torch.Event)
    torch.ones(1, device="sim")
    event.record()
    assert not event.query()
    event.synchronize()
    assert event.query()


def test_streams_of_other_devices_are_torchs_own(sim: Simulator) -> None:
    assert type(torch.Stream(device="cpu")) is not SimStream
    assert isinstance(torch.Stream(device="cpu"), torch.Stream)
    assert not isinstance(3, torch.Stream)


def test_the_device_module_is_true_of_the_engine(sim: Simulator) -> None:
    module = torch.get_device_module("sim")
    assert module.device_count() == 2
    with module.device(1):
        assert module.current_device() == 1
    x = torch.ones(1, device="sim:1")
    assert module.memory_allocated(1) > 0
    assert not module.current_stream("sim:1").query()
    module.synchronize("sim:1")
    assert module.current_stream(x.device).query()


@pytest.mark.filterwarnings("ignore:Dynamo")
def test_compiled_code_runs_on_it(sim: Simulator) -> None:
    compiled = torch.compile(lambda x: x * 2 + 1, backend="eager")
    assert compiled(torch.ones(2, device="sim:1")).cpu().tolist() == [3.0, 3.0]
