"""Two hosts as two network namespaces: the transaction and its stream over a cable that is cut in the middle.

The trainer and an engine are on one, another engine is on the other. Whoever is cut off is named within the deadline
and a second, everybody serves the old weights, and the next update after the repair is everywhere.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.two_hosts import DEADLINE, HERE, SOON, THERE

pytestmark = pytest.mark.timeout(180)
CUTS = (
    "the trainer's end, in the stream",
    "a receiver's end, in the stream",
    "a receiver's end, after its yes to begin",
)


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What happened. Skipped, with the reason, where no process may make network namespaces."""
    tests = str(Path(__file__).parents[3])
    path = os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "support.two_hosts"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "not here" in found:
        pytest.skip(f"two hosts were not tried: {found['not here']}")
    return found


def everywhere(update: dict[str, Any]) -> None:
    assert update["said"]["everywhere"], update["said"]
    for rank, state in update["states"].items():
        assert state["may_serve"] and state["running"] and state["epoch"] == update["epoch"], (rank, state)
        assert state["holds"] == [update["epoch"]], (rank, state)


def test_an_update_is_everywhere(seen: dict[str, Any]) -> None:
    assert seen["addresses"][0] != seen["addresses"][1]
    everywhere(seen["first"])


@pytest.mark.parametrize("cut", CUTS)
def test_a_cut_cable_changes_nothing_and_is_named(seen: dict[str, Any], cut: str) -> None:
    of = seen["cuts"][cut]
    said = of["said"]
    assert of["struck"] is not None, "the cable was never cut"
    assert said["committed"] is False, said
    assert said["missing"] == list(THERE), said
    assert all(f"rank {rank}" in said["reason"] for rank in THERE), said
    assert said["decided"] <= of["struck"] + DEADLINE + SOON, said
    for rank in (*HERE, *THERE):
        state = of["states"][str(rank)]
        assert state["may_serve"] and state["running"], (rank, state)
        assert (state["epoch"], state["holds"]) == (of["before"], [of["before"]]), (rank, state)


@pytest.mark.parametrize("cut", CUTS)
def test_after_the_repair_the_next_update_is_everywhere(seen: dict[str, Any], cut: str) -> None:
    everywhere(seen["cuts"][cut]["next"])


def test_a_cable_that_comes_back_within_the_deadline_costs_nothing(seen: dict[str, Any]) -> None:
    of = seen["cuts"]["a cable that comes back"]
    assert of["struck"] is not None
    everywhere({"epoch": of["before"] + 1, **of})
