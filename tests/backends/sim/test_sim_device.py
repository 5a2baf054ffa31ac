"""The Device part: per-thread current device, refusals, memory, identity."""

from __future__ import annotations

import threading

import pytest
import torch

from hardpoint.device import Device
from hardpoint.errors import DeviceError
from hardpoint_sim.settings import Settings
from support.simulator import Simulator, simulator


@pytest.fixture
def sim() -> Simulator:
    return simulator(Settings(devices=3))


def test_it_conforms_to_the_protocol(sim: Simulator) -> None:
    assert isinstance(sim.device, Device)
    assert sim.device.type == "sim"
    assert sim.device.count() == 3
    assert sim.device.torch_device(2) == torch.device("sim", 2)


def test_use_nests_and_restores_after_an_exception(sim: Simulator) -> None:
    with sim.device.use(1):
        with pytest.raises(ZeroDivisionError), sim.device.use(2):
            assert sim.device.current() == 2
            raise ZeroDivisionError
        assert sim.device.current() == 1
    assert sim.device.current() == 0


def test_the_current_device_is_per_thread(sim: Simulator) -> None:
    entered, leave, seen = threading.Event(), threading.Event(), []

    def other() -> None:
        seen.append(sim.device.current())
        with sim.device.use(2):
            entered.set()
            leave.wait(timeout=10)

    thread = threading.Thread(target=other)
    with sim.device.use(1):
        thread.start()
        assert entered.wait(timeout=10)
        assert sim.device.current() == 1
        leave.set()
        thread.join(timeout=10)
    assert seen == [0]


@pytest.mark.parametrize("index", [-1, 3, 99])
def test_every_method_refuses_a_device_that_is_not_there(sim: Simulator, index: int) -> None:
    device = sim.device
    for call in (
        device.use,
        device.torch_device,
        device.synchronize,
        device.stream,
        device.current_stream,
        device.event,
        device.memory,
        device.identity,
    ):
        with pytest.raises(DeviceError, match=f"there is no device sim:{index}; this simulator has 3"):
            call(index)


def test_identity(sim: Simulator) -> None:
    identity = sim.device.identity(1)
    assert (identity.logical, identity.physical) == (1, "1")
