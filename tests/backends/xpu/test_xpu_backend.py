"""The XPU backend's own rules, without a device: known-bad set-ups, options, probes, kernels, imports."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

import hardpoint_xpu
from hardpoint.errors import BackendUnavailable
from hardpoint.graphs import NoGraphs, RuntimeGraphs
from hardpoint.launcher import KernelOffer, Refusal
from hardpoint_sim.backend import build as build_sim
from hardpoint_xpu import facts, kernels, probe
from hardpoint_xpu.backend import build, over
from hardpoint_xpu.communicator import matching
from hardpoint_xpu.facts import KNOWN_BAD, capabilities
from hardpoint_xpu.runtime import TorchXpu


@pytest.mark.parametrize(
    ("mask", "oneccl", "device", "expected"),
    [
        ("", (2021, 15), "Intel Arc Pro B60", None),
        ("0,1", (2021, 15), "Intel Arc Pro B60", None),
        ("3", (2021, 15), "Intel Arc Pro B60", "one card per process"),
        ("0.1", (2021, 15), "Intel Data Center GPU Max 1550", "one card per process"),
        ("", (2022, 0, 1), "Intel Arc Pro B60", "B60 with oneCCL 2022"),
        ("", (2022, 0, 1), "Intel Arc A770", None),
        ("", (2023,), "Intel Arc Pro B60", None),
        ("", (), "Intel Arc Pro B60", None),
    ],
)
def test_known_bad_setups_are_found(
    mask: str, oneccl: tuple[int, ...], device: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CCL_ALLREDUCE", raising=False)
    found = matching(KNOWN_BAD, mask, oneccl, device)
    assert (found.name if found else None) == expected


def test_a_variable_that_makes_it_work_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCL_ALLREDUCE", "ring")
    assert matching(KNOWN_BAD, "", (2022,), "Intel Arc Pro B60") is None


def test_every_known_bad_setup_has_a_source_and_a_condition() -> None:
    for bad in KNOWN_BAD:
        assert bad.source and len(bad.reason.split()) > 5
        assert bad.one_card or bad.masks_differ or bad.oneccl or bad.device


def test_average_is_claimed_from_the_first_oneccl_that_has_it() -> None:
    for version, has in (((), False), ((2021, 14), False), ((2021, 15), True), ((2022,), True)):
        assert ("avg" in capabilities(version, graph=True, sleep=False).reduce_ops) == has


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="knows the profile 'sleep'"):
        build({"profile": "nz"})
    with pytest.raises(ValueError, match="no other option"):
        build({"device": 0})


def test_sleep_is_refused_where_nothing_unmaps_memory() -> None:
    with pytest.raises(BackendUnavailable, match="xpu:sleep"):
        build({"profile": "sleep"})


def test_graphs_or_sleep_and_never_both() -> None:
    plain, sleeping = build_sim({"profile": "xpu"}), build_sim({"profile": "xpu-sleep"})
    assert (plain.capabilities.graph, plain.capabilities.sleep) == (True, False)
    assert (sleeping.capabilities.graph, sleeping.capabilities.sleep) == (False, True)
    assert isinstance(plain.graphs, RuntimeGraphs)
    assert isinstance(sleeping.graphs, NoGraphs)
    assert "sleep is on" in (sleeping.graphs.supported(0) or "")


def test_a_torch_without_graphs_runs_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.__version__", "2.10.1+xpu")
    backend = over(TorchXpu(), hardpoint_xpu.hardpoint_info())
    assert not backend.capabilities.graph
    assert "torch 2.10.1+xpu has no graphs for xpu" in (TorchXpu().graph_refusal() or "")
    assert not backend.graphs.capturing()


def test_intel_gpus_are_counted_by_their_render_nodes(tmp_path: Path) -> None:
    for name, vendor in (("renderD128", "0x8086\n"), ("renderD129", "0x10de\n"), ("renderD130", "0x8086\n")):
        (tmp_path / name / "device").mkdir(parents=True)
        (tmp_path / name / "device" / "vendor").write_text(vendor)
    (tmp_path / "renderD131").mkdir()
    assert probe.intel_gpus(tmp_path) == 2
    assert probe.intel_gpus(tmp_path / "absent") == 0


@pytest.mark.parametrize(
    ("build_tag", "cards", "mask", "available", "says"),
    [
        (None, 2, None, False, "built without XPU support"),
        ("20250302", 0, None, False, "no Intel GPU has a render node"),
        ("20250302", 4, None, True, "4 Intel GPUs"),
        ("20250302", 4, "2", True, "1 Intel GPU,"),
        ("20250302", 1, "0.0,0.1", True, "1 Intel GPU,"),
        ("20250302", 4, "all", False, "is no device index"),
    ],
)
def test_the_probe_says_what_it_found(
    build_tag: str | None,
    cards: int,
    mask: str | None,
    available: bool,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probe, "xpu_build", lambda: build_tag)
    monkeypatch.setattr(probe, "intel_gpus", lambda nodes: cards)
    monkeypatch.delenv(facts.VARIABLE, raising=False)
    if mask is not None:
        monkeypatch.setenv(facts.VARIABLE, mask)
    found = probe.probe()
    assert found.available == available
    assert says in found.reason


def test_ipex_is_read_from_its_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "version", lambda name: "2.8.10+xpu")
    assert "not needed" in probe.ipex_note("2.8.0+xpu")
    assert "would end the process" in probe.ipex_note("2.13.0+xpu")

    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(probe, "version", absent)
    assert probe.ipex_note("2.13.0") == ""


def test_kernels_are_offered_where_their_distribution_is(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = kernels.offer("gdn_attention")
    assert isinstance(refused, Refusal)
    assert "not installed" in refused.reason
    monkeypatch.setattr(kernels, "version", lambda name: "0.1.16.2")
    offered = kernels.offer("gdn_attention")
    assert isinstance(offered, KernelOffer)
    assert offered.provider == "vllm-xpu-kernels 0.1.16.2"
    assert kernels.offer("softmax") is None


def test_probing_and_choosing_another_backend_imports_no_sdk() -> None:
    code = """
import sys, hardpoint
hardpoint.get_backend("cpu"); hardpoint.selection.registry().candidates()
assert not {"torch_npu", "intel_extension_for_pytorch", "vllm_xpu_kernels", "oneccl"} & set(sys.modules)
assert "hardpoint_npu.vendor" not in sys.modules and "hardpoint_xpu.runtime" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_hooks_stay_out_of_other_backends() -> None:
    sim: Any = build_sim({})
    assert hardpoint_xpu.hardpoint_kernel("gdn_attention", sim) is None
    assert hardpoint_xpu.hardpoint_conformance(sim) is None
    assert hardpoint_xpu.hardpoint_conformance(build_sim({"profile": "xpu"}))
