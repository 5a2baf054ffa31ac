"""What doctor says of the trainers' packages and of their repairs."""

from __future__ import annotations

import importlib.metadata

import pytest

from hardpoint.shims import ShimRow
from hardpoint_trainers import compat, doctor


def test_a_repair_that_is_needed_is_a_note_with_the_call_that_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [ShimRow("a", "peft 0.20.0", "needed", "it does this."), ShimRow("b", "peft 0.20.0", "retired", "fine.")]
    monkeypatch.setattr(compat, "rows", lambda: rows)
    section = doctor.section()
    assert dict(section.rows)["shim a"] == "needed: it does this."
    assert dict(section.rows)["shim b"] == "retired: fine."
    (finding,) = section.findings
    assert finding.severity == "note"
    assert "peft 0.20.0 has a fault" in finding.what
    assert "hardpoint_trainers.compat.install()" in finding.do


def test_versions_are_shown_and_nothing_is_wrong_where_none_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "rows", list)
    monkeypatch.setattr(doctor, "installed_version", lambda name: {"peft": "9.9"}.get(name))
    assert doctor.section().rows == (("peft", "9.9"),)
    monkeypatch.setattr(doctor, "installed_version", lambda name: None)
    assert doctor.section().rows == (("trainers", "none of transformers, peft, trl, ms-swift, verl is installed"),)


def test_it_is_an_entry_point() -> None:
    found = importlib.metadata.entry_points(group="hardpoint.doctor")
    assert "hardpoint_trainers.doctor:section" in [entry.value for entry in found]
