from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardpoint.errors import SyncError
from hardpoint.sync.frame import HEADER_BYTES, Header, Kind, check_header

headers = st.builds(
    Header,
    st.sampled_from(Kind),
    st.integers(0, 2**32 - 1),
    st.binary(min_size=16, max_size=16),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**64 - 1),
)
EXPECTED = Header(Kind.BUCKET, 4, b"s" * 16, 7, 640)


@given(headers)
def test_reading_gives_what_was_written(header: Header) -> None:
    data = header.to_bytes()
    assert len(data) == HEADER_BYTES
    assert Header.from_bytes(data) == header


@given(headers, st.integers(0, HEADER_BYTES - 1), st.integers(1, 255))
def test_a_damaged_header_is_refused(header: Header, place: int, change: int) -> None:
    data = bytearray(header.to_bytes())
    data[place] ^= change
    with pytest.raises(SyncError, match="Message refused"):
        Header.from_bytes(bytes(data))


@given(st.binary(max_size=2 * HEADER_BYTES))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(SyncError, match="Message refused"):
        Header.from_bytes(data)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"session": b"t" * 16}, "another session"),
        ({"epoch": 6}, "epoch 6, this update is epoch 7"),
        ({"index": 3}, "expected BUCKET 4 of 640 bytes, found BUCKET 3"),
        ({"kind": Kind.DIGESTS}, "found DIGESTS"),
        ({"payload_bytes": 64}, "of 64 bytes"),
        ({"session": b"t" * 16, "kind": Kind.ABORT}, "another session"),
    ],
)
def test_only_the_expected_message_passes(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(SyncError, match=sentence):
        check_header(dataclasses.replace(EXPECTED, **changes), EXPECTED)  # type: ignore[arg-type]


def test_an_abort_of_the_session_passes_in_place_of_any_message() -> None:
    check_header(EXPECTED, EXPECTED)
    check_header(dataclasses.replace(EXPECTED, kind=Kind.ABORT, payload_bytes=0), EXPECTED)
