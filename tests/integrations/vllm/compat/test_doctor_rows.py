"""What is active shows in doctor: whose the platform is, what is left to it, and each shim with its state."""

from __future__ import annotations

import pytest

from hardpoint_vllm import doctor, probe
from hardpoint_vllm.compat import rows
from hardpoint_vllm.compat.host import Host
from hardpoint_vllm.probe import Probed


def test_the_rows_of_a_process_beside_a_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDPOINT_BACKEND", "cpu")
    monkeypatch.setattr(doctor, "installed", lambda: "0.32.0")
    monkeypatch.setattr(rows, "host", lambda: Host("plugin", "NPUPlatform", "npu", "vllm-ascend 0.26.0rc1"))
    monkeypatch.setattr(probe, "run", lambda: Probed([], "NPUPlatform", "", rows.here()))
    shown = dict(doctor.section().rows)
    assert shown["platform"] == "NPUPlatform (of vllm-ascend 0.26.0rc1)"
    assert "its own under vLLM's names" in shown["left out: hardpoint_vllm.triton.gdn"]
    assert shown["shim rope-list-keys"].startswith("retired (transformers ")


def test_a_probe_that_failed_says_so_and_shows_no_shims(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDPOINT_BACKEND", "cpu")
    monkeypatch.setattr(doctor, "installed", lambda: "0.32.0")
    monkeypatch.setattr(probe, "run", lambda: Probed([], "", "it broke"))
    section = doctor.section()
    assert dict(section.rows)["platform"] == "not asked"
    assert "it broke" in section.findings[-1].what
