"""``hardpoint explain``: files of all ranks in, words or JSON out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hardpoint.cli.command import FOUND, GOOD, UNUSABLE
from hardpoint.cli.main import main
from hardpoint.communicator import FlightRecorder
from support import fr4_reports


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    for report in fr4_reports.log():
        report.write(tmp_path / "reports")
    return tmp_path / "reports"


def test_nan_in_words(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "nan", str(reports)]) == FOUND
    text = capsys.readouterr().out
    assert "1. padding rows 26-29 counted as real on dp_rank 0" in text
    assert "2. 86 elements after GDN layer 1 in decode on dp_rank 1" in text
    assert "not proven: whether the slot of that request was never initialised" in text
    assert "What these files cannot show" in text


def test_nan_as_json_with_a_clean_run(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "nan", str(reports), "--clean", str(reports), "--json"]) == FOUND
    found = json.loads(capsys.readouterr().out)
    assert found["origins"][0]["title"].startswith("padding rows 26-29 counted as real")
    assert found["differences"]


def test_hang_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for rank, rows in ((0, 26), (1, 30)):
        recorder = FlightRecorder("ep:0", rank, 2)
        recorder.enter(0, "all_gather", f"float32 [{rows}, 16]")
        recorder.write(tmp_path, "test")
    assert main(["explain", "hang", str(tmp_path)]) == FOUND
    assert "disagree about call 0: shape: float32 [26, 16] on rank 0, float32 [30, 16] on rank 1" in (
        capsys.readouterr().out
    )


def test_ranks_that_agree_are_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FlightRecorder("ep:0", 0, 1).write(tmp_path, "test")
    assert main(["explain", "hang", str(tmp_path), "--json"]) == GOOD
    assert json.loads(capsys.readouterr().out)["origins"] == []


def test_what_cannot_be_read_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text("{")
    (tmp_path / "y.json").write_text("{}")
    for arguments, words, status in (
        (["nan"], "needs files or folders", UNUSABLE),
        (["nan", str(tmp_path / "none")], "cannot be read", FOUND),
        (["nan", str(tmp_path / "x.json")], "should be JSON", FOUND),
        (["nan", str(tmp_path / "y.json")], "should be of kind nan-report, is of kind None", FOUND),
        (["hang", str(tmp_path)], "should be JSON", FOUND),
    ):
        assert main(["explain", *arguments]) == status
        assert words in capsys.readouterr().err
