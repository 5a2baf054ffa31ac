"""What ``HARDPOINT_BACKEND`` may say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardpoint.errors import BackendUnavailable
from hardpoint.plugins import Choice, parse_request

NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True).filter(lambda name: name not in ("auto", "off"))
CHOICES = st.builds(Choice, NAMES, st.none() | st.from_regex(r"[A-Za-z0-9_.-]{1,8}", fullmatch=True))


@pytest.mark.parametrize("text", [None, "", "  ", "auto", "AUTO", " Auto "])
def test_unset_empty_and_auto_are_auto(text: str | None) -> None:
    assert parse_request(text).auto


def test_off_is_known() -> None:
    request = parse_request(" OFF ")
    assert request.off
    assert not request.auto


@given(st.lists(CHOICES, min_size=1, max_size=4))
def test_what_is_written_is_read_back_in_order(choices: list[Choice]) -> None:
    written = (str(choice) if choice.profile else choice.name.upper() for choice in choices)
    request = parse_request(" , ".join(written))
    assert list(request.choices) == choices
    assert not request.auto
    assert not request.off


@given(st.text(max_size=30))
def test_any_text_is_understood_or_refused_in_a_sentence(text: str) -> None:
    try:
        request = parse_request(text)
    except BackendUnavailable as error:
        assert repr(text.strip()) in str(error)
        return
    assert request.auto or request.off or all(choice.name for choice in request.choices)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cuda,,cpu", "empty name"),
        ("cuda,", "empty name"),
        (":big", "empty name"),
        ("sim:", "followed by a profile"),
        ("cuda,auto", "stands alone"),
        ("off,cpu", "stands alone"),
        ("auto:big", "stands alone"),
    ],
)
def test_refused(text: str, words: str) -> None:
    with pytest.raises(BackendUnavailable, match=words):
        parse_request(text)


def test_a_profile_becomes_an_option() -> None:
    assert dict(Choice("sim", "xpu").options) == {"profile": "xpu"}
    assert dict(Choice("sim").options) == {}
