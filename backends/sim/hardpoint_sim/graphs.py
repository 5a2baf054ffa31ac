"""`SimGraphs`: capture records work on the storages that it used, replay queues the same work again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hardpoint.errors import CaptureRefused
from hardpoint_sim.capture import Recording

if TYPE_CHECKING:
    from hardpoint_sim.engine import Engine


class SimGraph:
    """A captured graph. It does not keep its tensors alive: one freed after capture reads as poison in a replay."""

    def __init__(self, engine: Engine, recording: Recording) -> None:
        self._engine = engine
        self._recording = recording
        self._ready = False

    def replay(self) -> None:
        """Queue the captured work on the current stream of the graph's device. CaptureRefused before capture ended."""
        recording = self._recording
        if not self._ready:
            state = "is still open" if recording.open else "failed"
            raise CaptureRefused(f"a graph on sim:{recording.device_index} cannot be replayed: its capture {state}")
        stream = self._engine.current_stream(recording.device_index)
        with self._engine.lock:
            for work in recording.work:
                self._engine.submit(stream, work)

    @property
    def operations(self) -> tuple[str, ...]:
        """Names of the captured work, in order."""
        return tuple(work.name for work in self._recording.work)

    def _finish(self) -> None:
        self._ready = True


@dataclass(frozen=True)
class SimGraphs:
    """Graph capture of one simulator. One capture per thread at a time; it runs on a stream of its own."""

    engine: Engine

    def supported(self, device_index: int, model: str = "", dtype: str = "") -> str | None:
        if not 0 <= device_index < self.engine.count:
            return f"there is no device sim:{device_index}"
        return None

    def capturing(self) -> bool:
        return self.engine.current_stream().recording is not None

    @contextmanager
    def capture(self, device_index: int) -> Iterator[SimGraph]:
        """Record what the block does on ``sim:device_index``; nothing of it runs before `SimGraph.replay`.

        CaptureRefused if this thread is capturing already, and inside for allocations, cold kernel loads, waits and
        reads. After an error in the block the graph cannot be replayed.
        """
        engine = self.engine
        reason = self.supported(device_index)
        if reason is not None:
            raise CaptureRefused(f"no graph can be captured: {reason}")
        if engine.thread.recording is not None:
            raise CaptureRefused(
                f"this thread is capturing on sim:{engine.thread.recording.device_index} already; captures do not nest"
            )
        # Work of the surrounding stream that has not run cannot be part of the graph; capture starts on a quiet device.
        engine.synchronize(device_index)
        stream = engine.new_stream(device_index)
        recording = Recording(stream)
        graph = SimGraph(engine, recording)
        stream.recording = engine.thread.recording = recording
        try:
            with engine.use_stream(stream):
                yield graph
        except BaseException:
            recording.abandon()
            raise
        finally:
            engine.thread.recording = None
        recording.close()
        graph._finish()
