"""Queues of one end of a stream: work that follows the caller's, runs beside it, and is waited for with a deadline."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from hardpoint.device import Device, Event, Stream
from hardpoint.errors import SyncError
from hardpoint.sync.stream.link import Link

_PAUSE = 2e-5  # seconds between two looks at an event


class Lanes:
    """Named streams of one device, made once."""

    def __init__(self, device: Device, index: int, *names: str) -> None:
        self._device, self._index = device, index
        self._streams: dict[str, Stream] = {name: device.stream(index) for name in names}

    def __getitem__(self, name: str) -> Stream:
        return self._streams[name]

    def follow_caller(self) -> None:
        """All lanes wait for what the caller has queued so far: it may still be writing the weights."""
        here = self.mark()
        for stream in self._streams.values():
            stream.wait_event(here)

    def lead_caller(self) -> None:
        """What the caller queues from here on waits for all lanes."""
        caller = self._device.current_stream(self._index)
        for stream in self._streams.values():
            caller.wait_event(self.mark(stream))

    @contextmanager
    def on(self, name: str) -> Iterator[Stream]:
        """Queue work in a lane."""
        stream = self._streams[name]
        with self._device.use_stream(stream):
            yield stream

    def mark(self, stream: Stream | None = None) -> Event:
        """An event after all that is in `stream` (None: the caller's current one) by now."""
        event = self._device.event(self._index)
        event.record(self._device.current_stream(self._index) if stream is None else stream)
        return event

    def settle(self, event: Event, link: Link, until: float, doing: str) -> None:
        """Block the host until `event`.

        Raises:
            CommunicatorError: the link has failed meanwhile.
            SyncError: `until` (of the monotonic clock) has passed.
        """
        while not event.query():
            link.check()
            if time.monotonic() > until:
                raise SyncError(f"{doing} was not done by its deadline, although no rank is known to be missing.")
            time.sleep(_PAUSE)
        link.check()


def seconds_left(until: float) -> float:
    """Until the deadline; never 0, which nobody may ask for."""
    return max(0.001, until - time.monotonic())
