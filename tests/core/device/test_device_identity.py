"""Visibility variables: numbers, ranges, UUIDs, MIG names, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardpoint.device.identity import physical_name, uuid_in, visible_devices
from hardpoint.errors import DeviceError

UUID = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
MIG = "MIG-8932f937-d72c-4106-c12f-20bd9faed9f6"
VARIABLE = "CUDA_VISIBLE_DEVICES"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", ()),
        ("-1", ()),
        ("0", ("0",)),
        ("2,0", ("2", "0")),
        (" 2 , 0 ", ("2", "0")),
        ("0-3", ("0", "1", "2", "3")),
        ("5,0-1", ("5", "0", "1")),
        ("1,-1,0", ("1",)),
        ("0.1,1.0", ("0.1", "1.0")),
        (UUID, (UUID,)),
        ("GPU-8932f937", ("GPU-8932f937",)),
        (f"{MIG},{UUID}", (MIG, UUID)),
        (f"MIG-{UUID}/1/0", (f"MIG-{UUID}/1/0",)),
    ],
)
def test_values_that_vendors_accept(value: str | None, expected: tuple[str, ...] | None) -> None:
    assert visible_devices(VARIABLE, value) == expected


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("3-1", "runs backwards"),
        ("a", "'a' is no device index"),
        ("0,,1", "'' is no device index"),
        ("0,1,0", "names 0 more than once"),
        ("0-2,1", "names 1 more than once"),
        ("cuda:0", "'cuda:0' is no device index"),
    ],
)
def test_refusals_are_sentences(value: str, sentence: str) -> None:
    with pytest.raises(DeviceError, match=sentence) as caught:
        visible_devices(VARIABLE, value)
    assert VARIABLE in str(caught.value)


@given(st.lists(st.integers(0, 63), unique=True, min_size=1), st.data())
def test_logical_index_maps_to_its_entry(physical: list[int], data: st.DataObject) -> None:
    logical = data.draw(st.integers(0, len(physical) - 1))
    assert physical_name(VARIABLE, ",".join(map(str, physical)), logical) == str(physical[logical])
    assert physical_name(VARIABLE, ",".join(map(str, physical)), len(physical)) is None
    assert physical_name(VARIABLE, None, logical) == str(logical)
    assert physical_name(None, None, logical) == str(logical)


def test_uuid_only_when_it_is_whole() -> None:
    assert uuid_in(UUID) == UUID
    assert uuid_in(MIG) == MIG
    assert uuid_in("GPU-8932f937") is None
    assert uuid_in("3") is None
    assert uuid_in(None) is None
