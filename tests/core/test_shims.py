"""A shim is put in place by what its host does, and not by a version alone."""

from __future__ import annotations

from typing import Any

import pytest

from hardpoint import shims
from hardpoint.shims import Shim, Verdict


def made(faulty: bool, versions: str = ">=1", host: str = "packaging") -> tuple[Shim, dict[str, Any]]:
    seen: dict[str, Any] = {"examined": 0, "in": False}

    def examine() -> Verdict:
        seen["examined"] += 1
        return Verdict(faulty, "looked.")

    def put() -> bool:
        seen["in"] = True
        return True

    shim = Shim(
        "name", host, versions, "reason", "owner", examine, put, lambda: seen.update({"in": False}), lambda: seen["in"]
    )
    return shim, seen


def test_a_fault_is_repaired_once() -> None:
    shim, seen = made(faulty=True)
    assert shim.row().state == "needed"
    assert not seen["in"]
    row = shim.apply()
    assert (row.state, row.why, seen["in"]) == ("active", "reason", True)
    assert row.host.startswith("packaging ")
    assert shim.apply().state == "active"
    assert seen["examined"] == 2, "what is in place is not examined again: it would judge the repair"


def test_a_host_without_the_fault_is_left_alone() -> None:
    shim, seen = made(faulty=False)
    assert (shim.apply().state, shim.row().why, seen["in"]) == ("retired", "looked.", False)


@pytest.mark.parametrize("version", ["0.9", "0.9.1rc1"])
def test_versions_beyond_the_range_are_not_even_examined(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shims, "installed_version", lambda host: version)
    shim, seen = made(faulty=True)
    row = shim.apply()
    assert (row.state, seen) == ("retired", {"examined": 0, "in": False})
    assert f"packaging {version} is not one of those with the fault (>=1)" in row.why


def test_a_host_that_is_not_installed() -> None:
    shim, seen = made(faulty=True, host="no-such-distribution")
    assert shim.apply().as_dict() == {
        "name": "name",
        "host": "no-such-distribution",
        "state": "absent",
        "why": "no-such-distribution is not installed.",
    }
    assert seen["examined"] == 0
