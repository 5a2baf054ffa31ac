"""The NPU backend's own rules, without a device: grids, graph streams, options, probes, layouts."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch

import hardpoint_npu
from hardpoint.errors import CaptureRefused, LaunchRefused, LayoutError
from hardpoint.moe import LayoutDescriptor
from hardpoint_npu import facts, probe
from hardpoint_npu.backend import build
from hardpoint_npu.graphs import NpuGraphs, StreamBudget
from hardpoint_npu.grid import GridLimited, persistent_grid
from hardpoint_npu.moe import NpuMoELayout
from hardpoint_sim.backend import build as build_sim


def test_a_persistent_grid_has_a_program_per_core_at_most() -> None:
    assert persistent_grid(1_000_000, 48) == (48,)
    assert persistent_grid(7, 48) == (7,)
    assert persistent_grid(0, 48) == (1,)
    assert persistent_grid(1 << 20, 1 << 20) == (facts.PROGRAMS,)


class Recorder:
    """A launcher that notes what reaches it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> Any:
        self.seen.append(("bind", kwargs.get("grid")))
        return lambda *again, **named: self.seen.append(("bound", named.get("grid")))

    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        self.seen.append(("launch", kwargs.get("grid")))

    preload = explain = launch


class Compiled:
    """Looks like a compiled kernel: arguments by name, and a `run`."""

    arg_names = ("out", "n", "BLOCK")
    __name__ = "compiled"

    def run(self) -> None:
        """Never called here."""


def test_grids_are_held_to_the_limit_in_every_form() -> None:
    inner: Any = Recorder()
    launcher, kernel = GridLimited(inner), Compiled()
    for grid in ((65_536,), (65_536, 1, 1), (256, 257), lambda given: (given["n"] // given["BLOCK"],)):
        with pytest.raises(LaunchRefused, match=r"compiled.* at most 65535; launch a persistent grid"):
            launcher.launch(kernel, None, 1 << 20, grid=grid, BLOCK=16)
    assert inner.seen == []
    launcher.launch(kernel, None, 1 << 20, grid=(65_535, 1, 1), BLOCK=16)
    bound = launcher.bind(kernel, None, 4, BLOCK=16)
    with pytest.raises(LaunchRefused):
        bound(None, 4, grid=(1 << 17,))
    bound(None, 4, grid=(3,))
    assert [what for what, _ in inner.seen] == ["launch", "bind", "bound"]


def test_a_plain_function_may_have_an_argument_called_grid() -> None:
    inner: Any = Recorder()
    GridLimited(inner).launch(lambda x, grid: None, None, grid=(1 << 20,))
    assert inner.seen == [("launch", (1 << 20,))]


def test_streams_are_counted_per_device_and_given_back() -> None:
    budget = StreamBudget(1)

    class Owner:
        pass

    owner = Owner()
    budget.take(0, owner)
    assert "the 1 streams npu:0 has" in (budget.refusal(0) or "")
    assert budget.refusal(1) is None
    del owner
    assert budget.refusal(0) is None


def test_a_task_of_a_failed_capture_takes_no_update() -> None:
    graphs = build_sim({"profile": "npu"}).graphs
    assert isinstance(graphs, NpuGraphs)
    value = torch.zeros(2, device="sim:0")
    with pytest.raises(RuntimeError, match="kernel fell over"), graphs.capture(0) as graph:
        with graphs.task(graph) as task:
            value.add_(1.0)
        raise RuntimeError("kernel fell over")
    with pytest.raises(CaptureRefused, match="kernel fell over"), graphs.update(task):
        value.add_(2.0)


def test_an_update_waits_for_replays_that_are_queued() -> None:
    backend = build_sim({"profile": "npu"})
    graphs = backend.graphs
    assert isinstance(graphs, NpuGraphs)
    value, out = torch.ones(2, device="sim:0"), torch.zeros(2, device="sim:0")
    with graphs.capture(0) as graph, graphs.task(graph) as task:
        out.add_(value, alpha=3)
    graph.replay()
    with graphs.update(task):
        out.add_(value, alpha=10)
    graph.replay()
    assert out.tolist() == [13.0, 13.0]


@pytest.mark.parametrize("known", facts.GRAPH_ERRORS)
def test_an_error_of_the_driver_that_is_known_comes_with_the_way_out(known: facts.KnownBad) -> None:
    graphs = build_sim({"profile": "npu"}).graphs
    with pytest.raises(CaptureRefused) as refused, graphs.capture(0):
        raise RuntimeError(f"NPU error: {known.sign.capitalize()}, see the log")
    assert known.advice in str(refused.value)
    with pytest.raises(RuntimeError, match="something else"), graphs.capture(0):
        raise RuntimeError("something else")


def test_a_setting_that_forbids_captures_is_named_before_one_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = build_sim({"profile": "npu"}).graphs
    monkeypatch.setenv("ASCEND_LAUNCH_BLOCKING", "1")
    assert "ASCEND_LAUNCH_BLOCKING=1: every launch is waited for" in (graphs.supported(0) or "")
    with pytest.raises(CaptureRefused, match="unset it"), graphs.capture(0):
        pass
    monkeypatch.setenv("ASCEND_LAUNCH_BLOCKING", "0")
    assert graphs.supported(0) is None


def layout(nz: frozenset[str] = frozenset()) -> NpuMoELayout:
    made = build_sim({"profile": "npu"}).moe_layout
    assert isinstance(made, NpuMoELayout)
    return NpuMoELayout(made.runtime, nz)


@pytest.mark.parametrize(
    ("nz", "dtype", "per", "expected"),
    [
        ((), torch.bfloat16, 1, "dense"),
        (("int8",), torch.bfloat16, 1, "dense"),
        (("int8", "bfloat16"), torch.bfloat16, 1, "NZ"),
        (("int8",), torch.int8, 1, "NZ"),
        (("uint8",), torch.uint8, 2, "dense"),
    ],
)
def test_which_experts_go_to_nz_is_said_by_dtype(
    nz: tuple[str, ...], dtype: torch.dtype, per: int, expected: str
) -> None:
    model = LayoutDescriptor(2, 8, 4, dtype, values_per_element=per, w13_state="model", w2_state="model")
    found = layout(frozenset(nz)).kernel_layout(model)
    assert found.format == expected
    assert layout(frozenset(nz)).kernel_layout(found) == found


def test_formats_of_others_and_the_host_are_refused() -> None:
    names = {"experts.gate_up_proj": torch.zeros(2, 8, 8).half(), "experts.down_proj": torch.zeros(2, 8, 4).half()}
    from hardpoint.moe import FUSED

    private = replace(layout().kernel_layout(LayoutDescriptor(2, 8, 4, torch.half)), format="NZ")
    with pytest.raises(LayoutError, match="NZ is for sim memory"):
        layout().pack(names, private, checkpoint=FUSED)
    with pytest.raises(LayoutError, match="'dense' or 'NZ', got the format 'C1HWC0'"):
        layout().pack(names, replace(private, format="C1HWC0"), checkpoint=FUSED)


def test_options_are_checked_before_torch_npu_is_imported() -> None:
    with pytest.raises(ValueError, match="knows the profiles 'nz' and 'sleep'"):
        build({"profile": "fast"})
    with pytest.raises(ValueError, match="no other option"):
        build({"device": 0})


@pytest.mark.parametrize(
    ("torch_version", "npu_version", "matches"),
    [
        ("2.13.0+cpu", "2.13.0", True),
        ("2.11.0", "2.11.0.post3", True),
        ("2.13.0+cpu", "2.11.0", False),
    ],
)
def test_torch_npu_has_to_fit_torch(torch_version: str, npu_version: str, matches: bool) -> None:
    reason = probe.version_mismatch(torch_version, npu_version)
    assert (reason is None) == matches
    assert matches or "torch-npu 2.13 release" in (reason or "")


@pytest.mark.parametrize(
    ("installed", "nodes", "visible", "available", "says"),
    [
        (None, 0, None, False, "torch-npu is not installed"),
        ("1.0.0", 8, None, False, "is built for torch 1.0"),
        ("same", 0, None, False, "no /dev/davinci* node"),
        ("same", 8, None, True, "8 Ascend NPUs"),
        ("same", 8, "2,3", True, "2 Ascend NPUs"),
        ("same", 8, "", False, "hides every NPU"),
        ("same", 8, "eight", False, "is no device index"),
    ],
)
def test_the_probe_says_what_it_found(
    installed: str | None,
    nodes: int,
    visible: str | None,
    available: bool,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def version(name: str) -> str:
        if name == "torch-npu":
            if installed is None:
                raise PackageNotFoundError(name)
            return torch.__version__ if installed == "same" else installed
        return torch.__version__

    monkeypatch.setattr(probe, "version", version)
    monkeypatch.setattr(probe, "npus", lambda folder: nodes)
    monkeypatch.delenv(facts.VARIABLE, raising=False)
    if visible is not None:
        monkeypatch.setenv(facts.VARIABLE, visible)
    found = probe.probe()
    assert found.available == available
    assert says in found.reason


def test_device_nodes_are_counted_without_the_manager(tmp_path: Path) -> None:
    for name in ("davinci0", "davinci1", "davinci_manager", "davinci12"):
        (tmp_path / name).touch()
    assert probe.npus(tmp_path) == 3


def test_the_backend_answers_to_ascend() -> None:
    assert hardpoint_npu.hardpoint_info().aliases == ("ascend",)
