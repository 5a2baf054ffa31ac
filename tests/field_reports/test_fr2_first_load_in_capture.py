"""FR2: speculative decoding. The GDN layer launches two kernels for the first time inside a graph capture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hardpoint import Backend
from hardpoint.conformance.mutant import Mutant
from hardpoint.errors import CaptureRefused
from hardpoint_sim.backend import build
from support import field_report_faults as faults
from support.field_report_faults import LoadsAtFirstLaunch, ReturnsEarlyWhileCapturing, WarmAnywhereIsWarm
from support.field_report_kit import Kit
from support.gdn import arguments, decode_batch, forward_core, reference

DEVICES = (0, 1)
CAUGHT = {
    faults.loads_at_first_launch: "operation not permitted when stream is capturing",
    faults.loads_where_the_driver_lets_it: "a kernel that is cold in a capture on device 0",
    faults.returns_early_while_capturing: "a kernel that is cold in a capture on device 0",
    faults.warm_anywhere_is_warm: "a kernel that is loaded elsewhere in a capture on device 0",
}
Launch = Callable[..., None]


@pytest.fixture
def backend() -> Backend:
    return build({"devices": 2})


def capture(backend: Backend, launch: Launch, batch: dict[str, Any], index: int = 0) -> tuple[Any, torch.Tensor]:
    """The layer's decode step as a graph, with a copy of its output at the end, as the rest of a model reads it."""
    seen = torch.zeros_like(batch["core_output"])
    backend.device.synchronize(index)
    with backend.graphs.capture(index) as graph:
        forward_core(launch, batch)
        seen.copy_(batch["core_output"])
    return graph, seen


def test_a_first_load_in_a_capture_fails_in_the_words_of_the_report(backend: Backend) -> None:
    launcher = LoadsAtFirstLaunch(backend.launcher, driver_refuses=True)
    with pytest.raises(RuntimeError, match=r"Triton Error \[CUDA\]: operation not permitted when stream is capturing"):
        capture(backend, launcher.launch, decode_batch("sim:0"))
    assert not backend.graphs.capturing()


@pytest.mark.parametrize(("driver_refuses", "warm"), [(False, False), (True, True)], ids=["driver", "order"])
def test_whether_it_fails_is_a_matter_of_driver_and_order(backend: Backend, driver_refuses: bool, warm: bool) -> None:
    launcher = LoadsAtFirstLaunch(backend.launcher, driver_refuses)
    batch = decode_batch("sim:0")
    if warm:
        forward_core(launcher.launch, decode_batch("sim:0"))
    graph, seen = capture(backend, launcher.launch, batch)
    graph.replay()
    torch.testing.assert_close(seen.cpu(), reference()["core_output"])


def test_returning_early_records_a_graph_without_the_layer(backend: Backend) -> None:
    launcher, batch = ReturnsEarlyWhileCapturing(backend.launcher), decode_batch("sim:0")
    graph, seen = capture(backend, launcher.launch, batch)
    assert graph.operations == ("copy on the device",), "only the copy after the layer was recorded"
    graph.replay()
    assert seen.cpu().eq(0).all(), "a replay gives what was in the buffer before: zeros here, and no error"
    assert reference()["core_output"].ne(0).all()


@pytest.mark.parametrize("index", DEVICES)
def test_a_cold_kernel_in_a_capture_is_an_error_that_says_what_to_do(backend: Backend, index: int) -> None:
    batch = decode_batch(f"sim:{index}")
    for kernel, given in arguments(batch).items():
        words = (
            rf"kernel {kernel.__name__} is not loaded on sim:{index} for \[.+\], and a graph is being captured there; "
            rf"leaving it out would record a wrong graph.*launcher\.preload\({kernel.__name__}, .*devices=\[{index}\]"
        )
        plans = []
        with pytest.raises(CaptureRefused, match=words), backend.graphs.capture(index) as graph:
            plans.append(backend.launcher.explain(kernel, *given))
            backend.launcher.launch(kernel, *given)
        with pytest.raises(CaptureRefused, match="cannot be replayed: its capture failed"):
            graph.replay()
        assert plans[0].refusal is not None
        assert "preload" in plans[0].refusal
    assert batch["core_output"].cpu().eq(0).all(), "nothing ran"


def test_preloaded_on_every_device_the_graph_has_the_layer_and_computes_it(backend: Backend) -> None:
    for kernel, given in arguments(decode_batch("sim:0")).items():
        backend.launcher.preload(kernel, *given, devices=DEVICES)
    for index in DEVICES:
        batch = decode_batch(f"sim:{index}")
        graph, seen = capture(backend, backend.launcher.launch, batch, index)
        assert graph.operations == (
            "kernel causal_conv1d_update",
            "kernel fused_gdn_gating",
            "kernel fused_sigmoid_gating_delta_rule_update",
            "copy on the device",
        )
        assert batch["core_output"].cpu().eq(0).all(), "preload and capture run nothing"
        for step in (1, 2, 3):
            with backend.device.use(index):
                graph.replay()
            torch.testing.assert_close(seen.cpu(), reference(step)["core_output"])


def test_warm_on_one_device_is_cold_on_the_next(backend: Backend) -> None:
    kernel, given = next(iter(arguments(decode_batch("sim:0")).items()))
    _, elsewhere = next(iter(arguments(decode_batch("sim:1")).items()))
    wrong = WarmAnywhereIsWarm(backend.launcher)
    wrong.preload(kernel, *given)
    with backend.graphs.capture(1):
        wrong.launch(kernel, *elsewhere)  # loads there without a word, where the driver lets it
    with pytest.raises(CaptureRefused, match="causal_conv1d_update is not loaded on sim:1"), backend.graphs.capture(1):
        backend.launcher.launch(kernel, *elsewhere)


@pytest.mark.parametrize(("fault", "words"), CAUGHT.items(), ids=lambda value: getattr(value, "name", ""))
def test_the_kit_names_the_fault(kit: Kit, fault: Mutant, words: str) -> None:
    assert fault.law == "launcher.cold-launch-in-capture-is-refused"
    assert words in kit.caught(fault, among=CAUGHT)
