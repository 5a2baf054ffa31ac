"""What doctor says about vLLM, from facts alone."""

from __future__ import annotations

import pytest

from hardpoint_vllm.diagnosis import GROUPS, diagnose
from hardpoint_vllm.probe import Probed, deadline_of, run

ALL = frozenset(GROUPS)
FINE = Probed([], "HardpointCpuPlatform", "")


def test_nothing_is_found_where_all_is_well() -> None:
    assert diagnose("0.32.0", {"HARDPOINT_BACKEND": "cpu"}, ALL, FINE) == ()
    assert diagnose("0.32.0", {}, ALL, None) == ()


def test_missing_vllm_is_serious_only_to_who_asked_for_hardpoint() -> None:
    (asked,) = diagnose(None, {"HARDPOINT_BACKEND": "cpu"}, ALL, None)
    (unset,) = diagnose(None, {}, ALL, None)
    assert "pip install 'hardpoint[vllm]'" in asked.do
    assert asked.severity == "error"
    assert unset.severity == "note"


@pytest.mark.parametrize("version", ["0.25.3", "0.33.0", "1.0", "unknown", "0.33.0.dev3+g12"])
def test_a_vllm_outside_the_range_is_named_with_the_range(version: str) -> None:
    (finding,) = diagnose(version, {}, ALL, None)
    assert version in finding.what
    assert ">=0.26,<0.33" in finding.what
    assert finding.do.startswith("Install vllm>=0.26,<0.33")


@pytest.mark.parametrize("version", ["0.26.0", "0.31.0", "0.32.0", "0.32.1.post1", "0.32.0+cpu", "0.32.1rc1"])
def test_a_vllm_inside_the_range_is_not_an_issue(version: str) -> None:
    assert diagnose(version, {}, ALL, None) == ()


@pytest.mark.parametrize("allowed", ["", "ascend", "hardpoints,x"])
def test_a_filter_that_keeps_us_out_is_told_with_its_value(allowed: str) -> None:
    (finding,) = diagnose("0.32.0", {"VLLM_PLUGINS": allowed}, ALL, None)
    assert repr(allowed) in finding.what
    assert finding.severity == "warning"


def test_a_filter_that_lets_us_in_is_fine() -> None:
    assert diagnose("0.32.0", {"VLLM_PLUGINS": "ascend,hardpoint"}, ALL, None) == ()


def test_a_skipped_platform_is_told_but_not_serious() -> None:
    (finding,) = diagnose("0.32.0", {"HARDPOINT_BACKEND": "cpu", "VLLM_TARGET_DEVICE": "cpu"}, ALL, FINE)
    assert "VLLM_TARGET_DEVICE=cpu" in finding.what
    assert finding.severity == "note"


def test_an_engine_that_would_not_start_is_told_with_its_error() -> None:
    (finding,) = diagnose("0.32.0", {"HARDPOINT_BACKEND": "xpu"}, ALL, Probed([], "", "BackendUnavailable: no device"))
    assert "BackendUnavailable: no device" in finding.what


def test_a_lost_entry_point_is_told() -> None:
    (finding,) = diagnose("0.32.0", {}, frozenset({"vllm.general_plugins"}), None)
    assert "vllm.platform_plugins" in finding.what


def test_off_is_silence() -> None:
    assert diagnose(None, {"HARDPOINT_BACKEND": "off", "VLLM_PLUGINS": ""}, frozenset(), None) == ()


def test_a_busy_machine_is_not_called_an_engine_that_would_not_start() -> None:
    (finding,) = diagnose("0.32.0", {}, ALL, Probed([], "", "", seconds=90.4, late=True))
    assert finding.severity == "warning"
    assert "within 90 s" in finding.what and "not known" in finding.what
    assert "HARDPOINT_PROBE_DEADLINE" in finding.do


def test_what_takes_too_long_is_given_up_and_said() -> None:
    found = run(deadline=0.05)
    assert found.late and not found.error and 0.05 <= found.seconds < 30


@pytest.mark.parametrize(("text", "seconds"), [("", 90.0), ("5", 15.0), ("soon", 90.0)])
def test_vllm_may_take_three_times_what_a_plugin_may(text: str, seconds: float) -> None:
    assert deadline_of({"HARDPOINT_PROBE_DEADLINE": text} if text else {}) == seconds
