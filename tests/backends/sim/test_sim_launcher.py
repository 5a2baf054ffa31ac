"""Kernel launches: the device of the tensors, refusals before anything runs, cold loads in a capture."""

from __future__ import annotations

import pytest
import torch
from hardpoint.errors import CaptureRefused, LaunchRefused
from hardpoint.launcher import KernelLauncher
from hardpoint_sim.driver import Driver
from hardpoint_sim.errors import InvalidPointer
from support.simulator import Simulator, simulator


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
    with pytest.raises(InvalidPointer, match=r"pointer argument 0 cannot be accessed from sim:0.*it is on sim:1"):
        Driver(sim.engine).launch(scale, "", (out, x), {})
    with sim.device.use(1):
        Driver(sim.engine).launch(scale, "", (out, x), {})
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
    with pytest.raises(
        LaunchRefused, match=r"scale: argument 1 is on the host \(argument 0 on sim:1, argument 1 on cpu"
    ):
        sim.launcher.launch(scale, out, torch.ones(3))
    with pytest.raises(LaunchRefused, match=r"different devices: argument 0 on sim:1, argument 1 on sim:0"):
        sim.launcher.launch(scale, out, torch.ones(3, device="sim:0"))
    with pytest.raises(LaunchRefused, match="no tensor argument"):
        sim.launcher.launch(scale, 1, 2)
    assert out.cpu().tolist() == [0.0] * 3


def test_a_cold_kernel_in_a_capture_is_refused_with_the_preload_call(sim: Simulator) -> None:
    out, x = pair(1)
    with (
        pytest.raises(CaptureRefused, match=r"kernel scale \[.*\] is not loaded on sim:1.*preload\(scale"),
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
    assert "on the host" in str(sim.launcher.explain(scale, out, torch.ones(3)).refusal)
    with sim.graphs.capture(1):
        assert "preload" in str(sim.launcher.explain(scale, out, x).refusal)


def test_a_bound_kernel_takes_arguments_of_its_kind_only(sim: Simulator) -> None:
    out, x = pair(1)
    bound = sim.launcher.bind(scale, out, x)
    bound(out, x)
    assert out.cpu().tolist() == [2.0] * 3
    with pytest.raises(LaunchRefused, match=r"is bound to sim:1"):
        bound(*pair(0))
