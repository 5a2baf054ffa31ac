"""The table of variables is whole, and finds misspelled ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hardpoint import environment
from hardpoint.environment import BadVariable, probe_deadline, to_hand_on, unknown_variables

ROOT = Path(__file__).parents[2]
_NAME = re.compile(r"""["'](HARDPOINT_[A-Z0-9_]*[A-Z0-9])["']""")


def test_every_variable_that_the_sources_read_is_in_the_table() -> None:
    folders = ("core", "backends", "integrations", "kernels")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py") if "mutants" not in path.parts]
    read = {name for path in sources for name in _NAME.findall(path.read_text())}
    assert "HARDPOINT_BACKEND" in read
    assert read <= {variable.name for variable in environment.VARIABLES}


def test_a_misspelled_variable_is_found_with_the_one_that_was_meant() -> None:
    given = {"HARDPOINT_BAKEND": "cpu", "HARDPOINT_BACKEND": "cpu", "HARDPOINT_QQQ": "1", "PATH": "x"}
    found = unknown_variables(given)
    expected = [("HARDPOINT_BAKEND", "HARDPOINT_BACKEND"), ("HARDPOINT_QQQ", None)]
    assert [(item.name, item.meant) for item in found] == expected


def test_a_plugins_own_variables_are_its_own_but_ours_stay_ours() -> None:
    assert not unknown_variables({"HARDPOINT_ACME_CHIPS": "2"}, ["acme"])
    (found,) = unknown_variables({"HARDPOINT_SIM_DEVICE": "2"}, ["sim"])
    assert found.meant == "HARDPOINT_SIM_DEVICES"


@pytest.mark.parametrize("text", ["abc", "0", "-1", "nan", "inf", "1e9"])
def test_a_deadline_that_nobody_can_mean_is_refused(text: str) -> None:
    with pytest.raises(BadVariable, match="HARDPOINT_PROBE_DEADLINE"):
        probe_deadline({"HARDPOINT_PROBE_DEADLINE": text})


def test_a_deadline() -> None:
    assert probe_deadline({}) == 30.0
    assert probe_deadline({"HARDPOINT_PROBE_DEADLINE": " 2.5 "}) == 2.5


def test_what_is_handed_on() -> None:
    given = {"HARDPOINT_BACKEND": "a", "HARDPOINT_ACME_X": "1", "HARDPOINT_IN_TRIAL": "1", "HOME": "/"}
    assert to_hand_on(given) == {"HARDPOINT_BACKEND": "a", "HARDPOINT_ACME_X": "1"}
