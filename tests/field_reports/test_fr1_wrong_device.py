"""FR1: GRPO with a colocated engine. The GDN layer's kernels are launched on cuda:0 while the tensors are on cuda:2."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hardpoint import Backend
from hardpoint.conformance.mutant import Mutant
from hardpoint.errors import LaunchRefused
from hardpoint_sim.backend import build
from hardpoint_sim.errors import InvalidPointer
from support import field_report_faults as faults
from support.field_report_faults import AsksOneTensorOnly, LaunchesWhereTheThreadIs, StaysWhereTheTensorsAre
from support.field_report_kit import Kit
from support.gdn import KERNELS, arguments, decode_batch, forward_core, reference

CAUGHT = (
    (faults.launches_where_the_thread_is, "launcher.device-from-tensors", "cannot be accessed from sim:0"),
    (faults.stays_where_the_tensors_are, "launcher.current-device-is-restored", "left device 1 current, it was 0"),
    (faults.asks_one_tensor_only, "launcher.refuses-two-devices", "should raise LaunchRefused, raised InvalidPointer"),
)
OUTPUTS = ("g", "beta", "conv_out", "conv_state", "core_output", "recurrent_state")


@pytest.fixture
def backend() -> Backend:
    """The reporter's node has eight devices; three are enough to have the tensors on number 2."""
    return build({"devices": 3})


def assert_computed(batch: dict[str, Any]) -> None:
    for name in OUTPUTS:
        torch.testing.assert_close(batch[name].cpu(), reference()[name], msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.__name__)
def test_a_launch_in_the_threads_device_fails_in_the_words_of_the_report(backend: Backend, kernel: Any) -> None:
    batch = decode_batch("sim:2")
    launcher = LaunchesWhereTheThreadIs(backend.launcher)
    assert backend.device.current() == 0
    with pytest.raises(InvalidPointer, match=r"pointer argument \(at 0\) cannot be accessed from sim:0.*is on sim:2"):
        launcher.launch(kernel, *arguments(batch)[kernel])
    assert issubclass(InvalidPointer, ValueError)


def test_one_device_hides_it(backend: Backend) -> None:
    batch = decode_batch("sim:0")
    forward_core(LaunchesWhereTheThreadIs(backend.launcher).launch, batch)
    assert_computed(batch)


@pytest.mark.parametrize("current", [0, 1, 2])
def test_every_kernel_of_the_layer_runs_where_its_tensors_are(backend: Backend, current: int) -> None:
    batch = decode_batch("sim:2")
    with backend.device.use(current):
        forward_core(backend.launcher.launch, batch)
        assert backend.device.current() == current
    assert_computed(batch)


def test_it_is_said_before_the_launch_where_that_will_be(backend: Backend) -> None:
    kernel, given = next(iter(arguments(decode_batch("sim:2")).items()))
    plan = backend.launcher.explain(kernel, *given)
    assert (plan.device, plan.refusal) == ("sim:2", None)


def test_a_launch_that_leaves_the_device_set_misplaces_what_comes_next(backend: Backend) -> None:
    kernel, given = next(iter(arguments(decode_batch("sim:2")).items()))
    StaysWhereTheTensorsAre(backend.launcher).launch(kernel, *given)
    assert torch.empty(1, device="sim").device == torch.device("sim:2"), "the fault is not planted"
    with backend.device.use(0):
        backend.launcher.launch(kernel, *given)
        assert torch.empty(1, device="sim").device == torch.device("sim:0")


def test_tensors_on_two_devices_are_refused_by_name(backend: Backend) -> None:
    batch = decode_batch("sim:2")
    batch["weight"] = batch["weight"].cpu().to("sim:1")
    kernel, given = next(iter(arguments(batch).items()))
    with pytest.raises(InvalidPointer, match=r"\(at 3\) cannot be accessed"):
        AsksOneTensorOnly(backend.launcher).launch(kernel, *given)
    with pytest.raises(
        LaunchRefused, match=r"causal_conv1d_update: expected all tensors on one device.*weight on sim:1"
    ):
        backend.launcher.launch(kernel, *given)
    batch["weight"] = batch["weight"].cpu()
    with pytest.raises(LaunchRefused, match=r"causal_conv1d_update: .*argument weight is elsewhere.*weight on cpu"):
        backend.launcher.launch(kernel, *arguments(batch)[kernel])


def test_the_workaround_of_the_report_works_as_well() -> None:
    """`--use_vllm false`: transformers is handed what `forward` accepts, and not the data fields."""
    from hardpoint_trainers import generate_kwargs
    from support.trainer_models import tiny_trainer_moe

    model: Any = tiny_trainer_moe()
    batch = {"input_ids": torch.tensor([[1, 2, 3]]), "max_new_tokens": 1, "solution": ["42"], "task_type": ["math"]}
    with pytest.raises(ValueError, match=r"`model_kwargs` are not used by the model: \['solution', 'task_type'\]"):
        model.generate(**batch)
    assert model.generate(**generate_kwargs(model, batch)).shape == (1, 4)


@pytest.mark.parametrize(("fault", "law", "words"), CAUGHT, ids=lambda value: getattr(value, "name", ""))
def test_the_kit_names_the_fault(kit: Kit, fault: Mutant, law: str, words: str) -> None:
    assert fault.law == law
    assert words in kit.caught(fault, among=[each for each, _, _ in CAUGHT])
