"""The known-failures file: every entry has a reason, and goes when its law passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardpoint.conformance.known_failures import expired, read_known_failures
from hardpoint.conformance.results import Status
from hardpoint.errors import HardpointError
from support.reports import result


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_comments_and_empty_lines_are_no_entries(tmp_path: Path) -> None:
    file = written(tmp_path / "known", "# why\n\n  device.a   ticket 1, see release 2.4 \ndevice.b\tx y\n")
    assert read_known_failures(file) == {"device.a": "ticket 1, see release 2.4", "device.b": "x y"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("device.a\n", r"known:1: device\.a has no reason"),
        ("# x\ndevice.a one\ndevice.a two\n", r"known:3: device\.a is listed twice"),
    ],
)
def test_a_bad_line_is_named_with_file_and_number(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(HardpointError, match=sentence):
        read_known_failures(written(tmp_path / "known", text))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(HardpointError, match="nowhere cannot be read"):
        read_known_failures(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (Status.PASSED, "it passes now; remove the entry"),
        (Status.NOT_CLAIMED, "it is not claimed; remove the entry"),
        (Status.NOT_APPLICABLE, "it is not applicable; remove the entry"),
        (None, "there is no such law; remove the entry"),
        (Status.KNOWN_FAILURE, None),
    ],
)
def test_an_entry_expires_unless_its_law_still_fails(status: Status | None, word: str | None) -> None:
    results = [] if status is None else [result("device.a", status)]
    sentences = expired({"device.a": "ticket 1"}, results)
    assert sentences == ([] if word is None else [f"the known-failures file lists device.a, but {word}"])
