"""One file with everything, whatever hangs or dies on the way."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest

from hardpoint.cli.report_command import run_step, without_names
from support.distributions import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site", {"HARDPOINT_BACKEND": "cpu"})


def test_a_report_holds_what_each_step_said(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    done = site.hardpoint("report", "cpu", "--steps", "list,info", "--out", str(file))
    assert done.returncode == 0, done.stderr
    assert f"Wrote {file}" in done.stdout
    report = json.loads(file.read_text())
    assert (report["kind"], report["backend"]) == ("report", "cpu")
    steps = {step["name"]: step for step in report["steps"]}
    assert steps["list"]["result"]["chosen"] == "cpu"
    assert steps["info"]["result"]["identity"]["devices"][0]["logical"] == 0
    assert steps["info"]["command"] == "HARDPOINT_BACKEND=cpu hardpoint info cpu --json"


def test_a_backend_that_is_not_here_is_reported_too(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    done = site.hardpoint("report", "npu", "--steps", "info", "--out", str(file))
    assert done.returncode == 1
    assert "cannot be used (exit status 2)" in done.stdout
    (step,) = json.loads(file.read_text())["steps"]
    assert step["result"]["error"] == "BackendUnavailable"


def test_a_step_that_hangs_is_ended_and_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stand-in for python that never ends, and starts a child that never ends."""
    sleeper = tmp_path / "python"
    sleeper.write_text('#!/bin/sh\nsleep 300 &\necho $! $$ > "$PIDS"\nwait\n')
    sleeper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(sleeper))
    step = run_step("list", "cpu", 3.0, {"PATH": "/usr/bin:/bin", "PIDS": str(tmp_path / "pids")})
    assert step.status is None
    assert step.words.startswith("ended by its deadline after 3 s")
    for pid in (tmp_path / "pids").read_text().split():
        state = Path(f"/proc/{pid}/stat")
        assert not state.exists() or state.read_text().split()[2] == "Z"


def test_unknown_steps_are_refused(site: Site) -> None:
    done = site.hardpoint("report", "cpu", "--steps", "list,nope")
    assert done.returncode == 2
    assert "expected some of list, doctor, info, conformance" in done.stderr


def test_names_of_host_and_user_are_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "node-17")
    monkeypatch.setattr(Path, "home", lambda: Path("/data/people/ann"))
    assert without_names("node-17 /data/people/ann/.venv") == "HOST ~/.venv"
