"""The token of control endpoints: where it may come from, and that it is shown nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardpoint.control import BadToken, Token, read_token
from hardpoint.environment import to_hand_on

SECRET = "0123456789abcdef0123456789abcdef"


def _file(folder: Path, text: str, mode: int = 0o600) -> dict[str, str]:
    path = folder / "token"
    path.write_text(text)
    path.chmod(mode)
    return {"HARDPOINT_CONTROL_TOKEN_FILE": str(path)}


def test_from_a_file_before_the_environment(tmp_path: Path) -> None:
    other = {"HARDPOINT_CONTROL_TOKEN": "f" * 32}
    assert read_token(_file(tmp_path, f"{SECRET}\n") | other) == Token(SECRET)
    assert read_token(other) == Token("f" * 32)
    assert read_token({}) is None
    assert read_token({"HARDPOINT_CONTROL_TOKEN": " "}) is None


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o620, 0o602])
def test_a_file_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(BadToken, match=r"which other users may read or change.*chmod 600") as refusal:
        read_token(_file(tmp_path, SECRET, mode))
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize(
    "text", ["", "short", "a" * 5000, "with a space in it, that is long", "ümläut" * 5, "a\nb" * 20]
)
def test_what_is_no_token_is_refused_without_being_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadToken, match=r"Expected one line of 16 to 4096") as refusal:
        read_token(_file(tmp_path, text))
    assert not text or text not in str(refusal.value)


def test_a_missing_file_is_a_sentence() -> None:
    with pytest.raises(BadToken, match="names /nowhere/token, which cannot be read"):
        read_token({"HARDPOINT_CONTROL_TOKEN_FILE": "/nowhere/token"})


def test_it_is_in_no_repr() -> None:
    assert SECRET not in repr(Token(SECRET)) + str(Token(SECRET)) + f"{Token(SECRET)!r}"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (f"Bearer {SECRET}", True),
        (f"bearer {SECRET}", True),
        (SECRET, False),
        (f"Basic {SECRET}", False),
        (f"Bearer {SECRET}x", False),
        (f"Bearer {SECRET[:-1]}", False),
        ("Bearer ", False),
        ("", False),
        ("Bearer \udc80", False),
    ],
)
def test_headers(given: str, expected: bool) -> None:
    assert Token(SECRET).matches_header(given) is expected


def test_the_token_is_not_handed_on_to_workers_but_its_place_is() -> None:
    handed = to_hand_on({"HARDPOINT_CONTROL_TOKEN": SECRET, "HARDPOINT_CONTROL_TOKEN_FILE": "/run/token"})
    assert handed == {"HARDPOINT_CONTROL_TOKEN_FILE": "/run/token"}
