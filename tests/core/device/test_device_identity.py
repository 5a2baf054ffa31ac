"""One map between torch's index, the machine's index, the UUID and Ray's index."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardpoint.device.identity import logical_of, physical_name, uuid_in
from hardpoint.device.protocol import DeviceIdentity
from hardpoint.errors import DeviceError

UUID = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
MIG = "MIG-8932f937-d72c-4106-c12f-20bd9faed9f6"
VARIABLE = "CUDA_VISIBLE_DEVICES"


@given(st.lists(st.integers(0, 63), unique=True, min_size=1), st.data())
def test_logical_index_maps_to_its_entry(physical: list[int], data: st.DataObject) -> None:
    logical = data.draw(st.integers(0, len(physical) - 1))
    listed = ",".join(map(str, physical))
    assert physical_name(VARIABLE, listed, logical, {}) == str(physical[logical])
    assert physical_name("ZE_AFFINITY_MASK", listed, logical, {}) == str(sorted(physical)[logical])
    assert physical_name(VARIABLE, listed, len(physical), {}) is None
    assert physical_name(VARIABLE, None, logical, {}) == str(logical)
    assert physical_name(None, None, logical, {}) == str(logical)


@pytest.mark.parametrize(
    ("mask", "selector", "logical", "expected"),
    [
        (None, "level_zero:3,1", 0, "1"),
        (None, "level_zero:3,1", 1, "3"),
        (None, "level_zero:3,1", 2, None),
        ("4,5,6", "level_zero:2,0", 0, "4"),
        ("4,5,6", "level_zero:2,0", 1, "6"),
        ("4,5", "level_zero:gpu", 1, "5"),
        ("4,5", "level_zero:7", 0, None),
        ("4,5", "!level_zero:0", 0, None),
        (None, "level_zero:0.1", 0, "0.1"),
        ("4", None, 0, "4"),
    ],
)
def test_numbers_of_the_oneapi_selector_count_among_what_the_mask_leaves(
    mask: str | None, selector: str | None, logical: int, expected: str | None
) -> None:
    environment = {"ONEAPI_DEVICE_SELECTOR": selector} if selector else {}
    assert physical_name("ZE_AFFINITY_MASK", mask, logical, environment) == expected


def identity(logical: int, physical: str | None, uuid: str | None = None) -> DeviceIdentity:
    return DeviceIdentity(logical, physical, uuid, VARIABLE, "5,2")


def test_what_ray_or_a_peer_calls_a_device_is_found_again() -> None:
    devices = [identity(0, "5", UUID), identity(1, "2")]
    assert (logical_of("5", devices), logical_of("2", devices), logical_of(UUID, devices)) == (0, 1, 0)
    with pytest.raises(DeviceError, match=r"'0' on this machine \(0 is 5, 1 is 2\)\. CUDA_VISIBLE_DEVICES=.* may hide"):
        logical_of("0", devices)
    with pytest.raises(DeviceError, match="none is visible"):
        logical_of("0", [])


def test_uuid_only_when_it_is_whole() -> None:
    assert uuid_in(UUID) == UUID
    assert uuid_in(MIG) == MIG
    assert uuid_in("GPU-8932f937") is None
    assert uuid_in("3") is None
    assert uuid_in(None) is None
