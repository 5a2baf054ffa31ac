"""The ring that messages are packed into: places never overlap what is still under way."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hardpoint.device import HostDevice
from hardpoint.sync.stream.memory import Ring


class Waits:
    """A stream that notes what it has to wait for."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def wait_event(self, event: Any) -> None:
        self.seen.append(event)


@given(st.lists(st.integers(1, 900), min_size=1, max_size=30), st.integers(64, 2000))
def test_a_place_is_waited_for_until_all_that_overlap_it_are_let_go(sizes: list[int], room: int) -> None:
    ring = Ring(sizes, room, HostDevice(), 0)
    aligned = [-(-size // 64) * 64 for size in sizes]
    assert ring.nbytes <= max([room, *aligned]) and ring.nbytes <= sum(aligned)
    ring.start()
    waited: list[int] = []
    for turn, size in enumerate(sizes):
        place = ring.place(turn)
        assert place.numel() == size
        stream = Waits()
        ring.wait(turn, stream)  # type: ignore[arg-type]
        waited += stream.seen
        ring.busy(turn, (turn,))  # type: ignore[arg-type]
        begin = place.storage_offset()
        for other in range(turn):
            start = ring.place(other).storage_offset()
            if start < begin + size and begin < start + sizes[other]:
                assert max(waited, default=-1) >= other  # messages are let go in order


def test_a_second_run_waits_for_nothing_of_the_first() -> None:
    ring = Ring([64, 64, 64], 64, HostDevice(), 0)
    for _ in range(2):
        ring.start()
        stream = Waits()
        ring.wait(0, stream)  # type: ignore[arg-type]
        assert stream.seen == []
        for turn in range(3):
            ring.busy(turn, ("event",))  # type: ignore[arg-type]
