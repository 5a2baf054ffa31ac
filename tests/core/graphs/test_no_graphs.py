"""`NoGraphs`: refuses at the call, with its reason, and captures nothing."""

from __future__ import annotations

import pytest

from hardpoint.errors import CaptureRefused
from hardpoint.graphs import Graphs, NoGraphs


def test_it_refuses_with_its_reason_before_any_block_is_entered() -> None:
    graphs = NoGraphs("this device has no queues")
    assert isinstance(graphs, Graphs)
    assert graphs.supported(3, model="qwen3", dtype="bfloat16") == "this device has no queues"
    with pytest.raises(CaptureRefused, match=r"on device 3 was asked for, but this device has no queues; run the work"):
        graphs.capture(3)
    assert not graphs.capturing()
