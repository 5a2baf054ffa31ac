"""What a decision record says after a trainer, or its disk, stopped in the middle of a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardpoint.errors import SyncError
from hardpoint.sync.transaction import Decision, FileRecord

COMMIT = Decision("aa", 3, True)
ABORT = Decision("bb", 4, False, "rank 2 said no")
WHOLE = '{"session": "aa", "epoch": 3, "commit": true, "reason": ""}\n'


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "decisions"
    record = FileRecord(path)
    record.write(COMMIT)
    record.write(ABORT)
    again = FileRecord(path)
    assert (again.read("aa"), again.read("bb"), again.read("cc")) == (COMMIT, ABORT, None)
    with pytest.raises(SyncError, match="Session aa is already decided: commit of epoch 3"):
        again.write(Decision("aa", 3, False))


@pytest.mark.parametrize("length", [1, 13, 30, len(WHOLE) - 2])
def test_a_line_that_was_not_finished_is_no_decision(tmp_path: Path, length: int) -> None:
    path = tmp_path / "decisions"
    path.write_text(WHOLE.replace("aa", "zz") + WHOLE[:length])
    record = FileRecord(path)
    assert record.read("aa") is None
    record.write(ABORT)
    record.write(Decision("aa", 5, False, "the trainer started again before it decided"))
    again = FileRecord(path)
    assert again.read("zz") == Decision("zz", 3, True)
    assert again.read("bb") == ABORT
    assert again.read("aa") == Decision("aa", 5, False, "the trainer started again before it decided")


def test_a_line_that_lacks_its_end_alone_is_a_decision(tmp_path: Path) -> None:
    path = tmp_path / "decisions"
    path.write_text(WHOLE[:-1])
    record = FileRecord(path)
    assert record.read("aa") == COMMIT
    record.write(ABORT)
    assert (FileRecord(path).read("aa"), FileRecord(path).read("bb")) == (COMMIT, ABORT)


@pytest.mark.parametrize(
    "line",
    ["not json", "[]", "{}", "7", WHOLE.replace("true", '"false"').strip(), WHOLE.replace("3", "null").strip()],
)
def test_something_else_than_decisions_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "decisions"
    path.write_text(WHOLE + line + "\n")
    with pytest.raises(SyncError, match=r"Line 2 of the decision record .* is not a decision"):
        FileRecord(path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "decisions"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SyncError, match="cannot be read"):
        FileRecord(path)
