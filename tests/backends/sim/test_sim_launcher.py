"""Kernel launches: the device of the tensors, refusals before anything runs, cold loads in a capture."""

from __future__ import annotations

import gc

import pytest
import torch

from hardpoint.errors import CaptureRefused, LaunchRefused
from hardpoint.launcher import KernelLauncher
from hardpoint_sim.driver import Driver
from hardpoint_sim.errors import DeviceFault, InvalidPointer
from support.simulator import Simulator, is_poisoned, simulator


def scale(out: torch.Tensor, x: torch.Tensor, factor: float = 2.0) -> None:
    out.copy_(x * factor)


@pytest.fixture
def sim() -> Simulator:
    return simulator()


def pair(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(3, device=f"sim:{index}"), torch.ones(3, device=f"sim:{index}")


def test_it_conforms_to_the_protocol(sim: Simulator) -> None:
    assert isinstance(sim.launcher, KernelLauncher)


def test_a_launch_runs_on_the_device_of_its_tensors_and_leaves_the_thread_alone(sim: Simulator) -> None:
    out, x = pair(1)
    sim.launcher.launch(scale, out, x, factor=3.0)
    assert sim.device.current() == 0
    assert not sim.device.current_stream(1).query()
    assert out.cpu().tolist() == [3.0] * 3


def test_the_driver_under_the_wrong_device_fails_as_triton_does(sim: Simulator) -> None:
    out, x = pair(1)
    with pytest.raises(InvalidPointer, match=r"pointer argument \(at 0\) cannot be accessed from sim:0.*is on sim:1"):
        Driver(sim.engine).launch(scale, (out, x), {})
    with sim.device.use(1):
        Driver(sim.engine).launch(scale, (out, x), {})
    assert out.cpu().tolist() == [2.0] * 3


def test_a_launch_is_work_of_the_callers_current_stream(sim: Simulator) -> None:
    out, x = pair(1)
    sim.device.synchronize(1)
    side = sim.device.stream(1)
    with sim.device.use_stream(side):
        sim.launcher.launch(scale, out, x)
    assert out.cpu().tolist() == [0.0] * 3
    side.synchronize()
    assert out.cpu().tolist() == [2.0] * 3


def test_refusals_name_kernel_arguments_and_devices_before_anything_runs(sim: Simulator) -> None:
    out, _ = pair(1)
    with pytest.raises(LaunchRefused, match=r"kernel scale: .* argument x is elsewhere \(out on sim:1, x on cpu\)"):
        sim.launcher.launch(scale, out, torch.ones(3))
    with pytest.raises(LaunchRefused, match=r"found out on sim:1, x on sim:0"):
        sim.launcher.launch(scale, out, torch.ones(3, device="sim:0"))
    with pytest.raises(LaunchRefused, match="no tensor among its arguments"):
        sim.launcher.launch(scale, 1, 2)
    assert out.cpu().tolist() == [0.0] * 3


def test_a_cold_kernel_in_a_capture_is_refused_with_the_preload_call(sim: Simulator) -> None:
    out, x = pair(1)
    with (
        pytest.raises(CaptureRefused, match=r"kernel scale is not loaded on sim:1 for \[.*\].*preload\(scale"),
        sim.graphs.capture(1),
    ):
        sim.launcher.launch(scale, out, x)


def test_loaded_is_per_device_and_per_specialisation(sim: Simulator) -> None:
    out, x = pair(1)
    sim.launcher.preload(scale, out, x, devices=[0])
    assert not sim.launcher.explain(scale, out, x).loaded
    sim.launcher.preload(scale, out, x)
    assert sim.launcher.explain(scale, out, x).loaded
    assert not sim.launcher.explain(scale, out.double(), x.double()).loaded
    with sim.graphs.capture(1) as graph:
        sim.launcher.launch(scale, out, x)
    assert out.cpu().tolist() == [0.0] * 3
    graph.replay()
    assert out.cpu().tolist() == [2.0] * 3


def test_without_the_rule_a_cold_load_in_a_capture_goes_unnoticed() -> None:
    sim = simulator(capture_refuses_cold_load=False)
    out, x = pair(0)
    with sim.graphs.capture(0):
        sim.launcher.launch(scale, out, x)


def test_explain_runs_nothing_and_says_what_would_happen(sim: Simulator) -> None:
    out, x = pair(1)
    plan = sim.launcher.explain(scale, out, x, factor=None)
    assert (plan.kernel, plan.device, plan.refusal) == ("scale", "sim:1", None)
    assert "*float32" in plan.specialisation
    assert "x on cpu" in str(sim.launcher.explain(scale, out, torch.ones(3)).refusal)
    with sim.graphs.capture(1):
        assert "preload" in str(sim.launcher.explain(scale, out, x).refusal)


def test_a_bound_kernel_takes_arguments_of_its_kind_only(sim: Simulator) -> None:
    out, x = pair(1)
    bound = sim.launcher.bind(scale, out, x)
    bound(out, x)
    assert out.cpu().tolist() == [2.0] * 3
    with pytest.raises(LaunchRefused, match="is bound to device 1"):
        bound(*pair(0))


def test_a_kernel_sees_device_tensors_and_their_device(sim: Simulator) -> None:
    seen = []

    def look(x: torch.Tensor) -> None:
        seen.append((x.device, sim.device.current(), x.sum().item()))

    sim.launcher.launch(look, torch.ones(3, device="sim:1"))
    assert seen == []
    sim.device.synchronize(1)
    assert seen == [(torch.device("sim", 1), 1, 3.0)]
    assert sim.device.current() == 0


def test_a_kernel_that_fails_is_raised_at_the_wait(sim: Simulator) -> None:
    def broken(x: torch.Tensor) -> None:
        raise ZeroDivisionError("inside")

    sim.launcher.launch(broken, torch.ones(3, device="sim"))
    with pytest.raises(DeviceFault, match=r"kernel broken on stream \d+ of sim:0 failed: inside"):
        sim.device.synchronize()
    assert torch.ones(1, device="sim").item() == 1.0


def test_a_queued_kernel_does_not_keep_its_tensors_alive(sim: Simulator) -> None:
    out, x = pair(0)
    side = sim.device.stream()
    sim.device.synchronize()
    with sim.device.use_stream(side):
        sim.launcher.launch(scale, out, x)
    del x
    gc.collect()
    sim.device.synchronize()
    assert is_poisoned(out)
