"""`hardpoint matrix`: reports of several backends as one table."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardpoint.cli.main import main
from hardpoint.conformance.files import write_json
from hardpoint.conformance.matrix import support_matrix
from hardpoint.conformance.results import Status
from support.reports import one_of_each, report, result


def rows(table: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    return {first: rest for first, *rest in cells}


def test_a_row_per_part_and_a_column_per_report() -> None:
    good = report(result("device.a"), result("device.b"), result("moe_layout.c"), name="best", complete=False)
    table = support_matrix([one_of_each(), good])
    found = rows(table)
    assert found["part"] == ["acme", "best"]
    assert found["device"] == ["❌ 1/2", "✅ 2/2"] or found["device"][0] == "1 x acme"  # the facts below share the word
    assert found["streams"] == ["⚠️ 0/1", ""]
    assert found["graphs"] == ["not claimed", ""]
    assert found["moe_layout"] == ["", "✅ 1/1"]
    assert found["**all**"] == ["1/3, broken", "3/3, kept, a selection"]
    assert "| device | ❌ 1/2 | ✅ 2/2 |" in table
    assert table.endswith("acme does not claim: graph.\n")


def test_the_command_reads_files_and_refuses_what_is_no_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(report(result("device.a", Status.NOT_APPLICABLE)), tmp_path / "acme.json")
    assert main(["matrix", str(tmp_path / "acme.json")]) == 0
    assert rows(capsys.readouterr().out)["part"] == ["acme"]
    (tmp_path / "odd.json").write_text("{}")
    assert main(["matrix", str(tmp_path / "acme.json"), str(tmp_path / "odd.json")]) == 2
    assert "odd.json: expected a conformance report" in capsys.readouterr().err
