"""`transport` of an engine's `init_info`: what may be meant, and what is refused."""

from __future__ import annotations

import pytest

from hardpoint_vllm.weight_transfer.info import HardpointInitInfo


def test_native_unless_told_otherwise() -> None:
    assert HardpointInitInfo("h", 1, 2).transport == "native"
    assert HardpointInitInfo("h", 1, 2, transport="host").transport == "host"


def test_other_ways_and_a_plan_through_the_host_are_refused() -> None:
    with pytest.raises(ValueError, match="transport must be one of native, host, found 'carrier pigeon'"):
        HardpointInitInfo("h", 1, 2, transport="carrier pigeon")
    assert HardpointInitInfo("h", 1, 2, transport="host", path="plan").transport == "host"
