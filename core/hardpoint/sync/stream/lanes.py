"""Queues of one end of a stream: work that follows the caller's, runs beside it, and is waited for with a deadline."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hardpoint.device import Device, Event, Stream
from hardpoint.errors import SyncError
from hardpoint.sync.stream.link import Link

_PAUSE = 2e-5  # seconds between two looks at an event that is far away


class Lanes:
    """Named streams of one device, made once."""

    def __init__(self, device: Device, index: int, *names: str) -> None:
        self._device, self._index = device, index
        self._streams: dict[str, Stream] = {name: device.stream(index) for name in names}
        self._ends = {name: self.event() for name in names}
        self._start = self.event()

    def __getitem__(self, name: str) -> Stream:
        return self._streams[name]

    def follow_caller(self) -> None:
        """All lanes wait for what the caller has queued so far: it may still be writing the weights."""
        self._start.record(self._device.current_stream(self._index))
        for stream in self._streams.values():
            stream.wait_event(self._start)

    def lead_caller(self) -> None:
        """What the caller queues from here on waits for all lanes."""
        caller = self._device.current_stream(self._index)
        for event in self.ends():
            caller.wait_event(event)

    def ends(self) -> tuple[Event, ...]:
        """Events after all that is in the lanes by now."""
        for name, event in self._ends.items():
            event.record(self._streams[name])
        return tuple(self._ends.values())

    @contextmanager
    def on(self, name: str) -> Iterator[Stream]:
        """Queue work in a lane."""
        stream = self._streams[name]
        with self._device.use_stream(stream):
            yield stream

    def event(self) -> Event:
        """One that may be recorded again and again: making one costs more than recording it."""
        return self._device.event(self._index)

    def settle(self, events: Sequence[Event], link: Link, until: float, doing: str, *, soon: bool = False) -> None:
        """Block the host until all `events`.

        Args:
            soon: it is a matter of a millisecond: look again at once, instead of resting the processor for longer than
                what is left.

        Raises:
            CommunicatorError: the link has failed meanwhile.
            SyncError: `until` (of the monotonic clock) has passed.
        """
        for event in events:
            while not event.query():
                link.check()
                if time.monotonic() > until:
                    raise SyncError(f"{doing} was not done by its deadline, although no rank is known to be missing.")
                time.sleep(0.0 if soon else _PAUSE)
        link.check()


def seconds_left(until: float) -> float:
    """Until the deadline; never 0, which nobody may ask for."""
    return max(0.001, until - time.monotonic())
