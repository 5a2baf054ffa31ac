"""`Recording`: what a graph capture collects instead of running it.

Streams join a capture by waiting for an event that was recorded inside it, and have to be waited for by the origin
stream before it ends; so it is in CUDA, and so code that forgets it fails here as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardpoint.errors import CaptureRefused
from hardpoint_sim.work import Work

if TYPE_CHECKING:
    from hardpoint_sim.stream import SimStream


class Recording:
    """One capture. Work is kept in the order of submission, which is one of the orders that its events allow."""

    def __init__(self, origin: SimStream) -> None:
        self.origin = origin
        self.device_index = origin.device_index
        self.open = True
        self.work: list[Work] = []
        self._joined: dict[int, SimStream] = {origin.stream_id: origin}
        self._written: dict[int, int] = {origin.stream_id: 0}
        self._returned: dict[int, int] = {}

    def append(self, stream: SimStream, work: Work) -> None:
        if work.after:
            raise CaptureRefused(f"{work.name} on {stream!r} waits for work outside the capture")
        self._written[stream.stream_id] += 1
        self.work.append(work)

    def written(self, stream: SimStream) -> int:
        """How much of `stream` is recorded so far."""
        return self._written[stream.stream_id]

    def join(self, stream: SimStream, source: SimStream, position: int) -> None:
        """`stream` waits for the first `position` items of `source`; if it is not in the capture yet, it enters it."""
        if stream.recording is None:
            stream.recording = self
            self._joined[stream.stream_id] = stream
            self._written[stream.stream_id] = 0
        elif stream.recording is not self:
            raise CaptureRefused(f"{stream!r} belongs to another capture, and two captures cannot be joined")
        if stream is self.origin:
            self._returned[source.stream_id] = max(position, self._returned.get(source.stream_id, 0))

    def abandon(self) -> None:
        """End the capture for all its streams, whatever state they are in."""
        self.open = False
        for stream in self._joined.values():
            stream.recording = None

    def close(self) -> None:
        """End the capture. CaptureRefused if a stream that joined was not waited for."""
        self.abandon()
        for key, stream in self._joined.items():
            if stream is not self.origin and self._returned.get(key, -1) < self._written[key]:
                raise CaptureRefused(
                    f"{stream!r} joined the capture on {self.origin!r} and was not waited for before its end; call "
                    "wait_stream on the captured stream"
                )
