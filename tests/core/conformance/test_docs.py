"""docs/conformance.md names laws, parts and statuses that exist."""

from __future__ import annotations

import re
from pathlib import Path

from hardpoint.conformance.registry import PART_ORDER, laws
from hardpoint.conformance.results import Status

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "conformance.md").read_text(encoding="utf-8")


def test_every_law_that_the_text_names_exists() -> None:
    parts = "|".join(PART_ORDER)
    mutants = set(re.findall(r"(?:--plant |name=\")([\w.-]+)", TEXT))  # examples of what a reader would write
    named = set(re.findall(rf"\b((?:{parts})\.[a-z0-9]+(?:-[a-z0-9]+)+)", TEXT)) - mutants
    assert len(named) >= 3
    assert named - set(laws()) == set()


def test_the_parts_and_results_are_those_of_the_kit() -> None:
    listed = " ".join(TEXT.partition("up: device")[2].partition(".")[0].split())
    assert f"device{listed}" == ", ".join(PART_ORDER)
    assert [status for status in Status if f"| {status.value} |" not in TEXT] == []
