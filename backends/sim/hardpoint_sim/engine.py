"""The simulated machine: devices, the calling thread's current device and streams, and everything submitted to them.

One engine is active per process, because torch's PrivateUse1 slot is one per process: factories such as
``torch.empty(..., device="sim:1")`` allocate there. Tensors, streams and events stay with the engine that made them.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from hardpoint.errors import CaptureRefused, DeviceError
from hardpoint_sim.errors import DeviceFault
from hardpoint_sim.heap import Heap
from hardpoint_sim.memory import DEVICE_SPAN, Budget, Cell
from hardpoint_sim.poison import poison
from hardpoint_sim.scheduler import Scheduler
from hardpoint_sim.settings import Settings
from hardpoint_sim.slot import DEVICE_TYPE
from hardpoint_sim.stream import SimStream
from hardpoint_sim.work import Mark, Work

if TYPE_CHECKING:
    from hardpoint_sim.capture import Recording

MICROSECOND = 1e-3  # in the milliseconds of `Event.elapsed_time`


@dataclass
class DeviceState:
    """What one device is made of, besides its streams' queues."""

    index: int
    budget: Budget
    default_stream: SimStream
    random: random.Random
    next_address: int
    cells: dict[int, Cell] = field(default_factory=dict)
    faults: list[tuple[str, Exception]] = field(default_factory=list)


class _Thread(threading.local):
    """Per thread: current device, current stream per device, tag of new allocations per device, capture, kernel."""

    def __init__(self) -> None:
        self.device = 0
        self.streams: dict[int, SimStream] = {}
        self.pool: dict[int, str] = {}
        self.in_kernel = False
        self.recording: Recording | None = None


class Engine:
    """All state of one simulator. Every public method may be called from any thread."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.rules = settings.rules
        self.lock = threading.RLock()
        self.missing_dtypes: frozenset[str] = frozenset()  # names without arithmetic on these devices
        self.clock = 0.0
        self.submissions = 0
        self.scheduler = Scheduler(settings.seed, self.rules.adversarial, self._run_head)
        self.heap = Heap(self)
        self.thread = _Thread()
        self._streams = 0
        self._devices = tuple(self._new_device(index) for index in range(settings.devices))

    # devices

    @property
    def count(self) -> int:
        return len(self._devices)

    def torch_device(self, index: int) -> torch.device:
        return torch.device(DEVICE_TYPE, index)

    def state(self, index: int) -> DeviceState:
        """DeviceError if there is no such device."""
        if not isinstance(index, int) or not 0 <= index < len(self._devices):
            raise DeviceError(
                f"there is no device sim:{index}; this simulator has {len(self._devices)}: "
                f"sim:0 to sim:{len(self._devices) - 1} (HARDPOINT_SIM_DEVICES sets how many)"
            )
        return self._devices[index]

    def current(self) -> int:
        return self.thread.device

    def set_current(self, index: int) -> None:
        self.thread.device = self.state(index).index

    @contextmanager
    def use(self, index: int) -> Iterator[None]:
        before = self.thread.device
        self.set_current(index)
        try:
            yield
        finally:
            self.thread.device = before

    # streams

    def new_stream(self, index: int | None = None) -> SimStream:
        device = self.state(self.current() if index is None else index).index
        with self.lock:
            return self._make_stream(device)

    def current_stream(self, index: int | None = None) -> SimStream:
        state = self.state(self.current() if index is None else index)
        return self.thread.streams.get(state.index, state.default_stream)

    @contextmanager
    def use_stream(self, stream: SimStream) -> Iterator[None]:
        """Make `stream` and its device current; both the device and that device's stream are restored."""
        before = self.thread.streams.get(stream.device_index)
        with self.use(stream.device_index):
            self.thread.streams[stream.device_index] = stream
            try:
                yield
            finally:
                if before is None:
                    del self.thread.streams[stream.device_index]
                else:
                    self.thread.streams[stream.device_index] = before

    def set_stream(self, stream: SimStream) -> None:
        self.thread.device = stream.device_index
        self.thread.streams[stream.device_index] = stream

    # work

    def submit(self, stream: SimStream, work: Work) -> None:
        """Append `work` to `stream`, or to the graph that is being captured from it."""
        with self.lock:
            if self.thread.in_kernel:
                work.run(self.draw_seed(stream.device_index) if work.random else 0)
                return
            if stream.recording is not None:
                stream.recording.append(stream, work)
                return
            self.heap.bury()
            self.enqueue(stream, work)
            if not self.rules.execute_late:
                self.scheduler.run_until([stream.mark()])
            elif len(stream.queue) > self.rules.max_pending:
                self.scheduler.run_until([Mark(stream, stream.completed + 1)])

    def enqueue(self, stream: SimStream, work: Work) -> None:
        """Append `work` to the queue of `stream`, past any capture; the caller holds the lock."""
        self.submissions += 1
        if work.own and not stream.queue:
            self._run(stream, work)
            return
        seed = self.draw_seed(stream.device_index) if work.random else 0
        stream.queue.append(replace(work, seed=seed, submission=self.submissions))
        if not work.own:
            stream.submitted += 1
            stream.last_submission = self.submissions
            self.scheduler.pending[stream.stream_id] = stream

    def wait(self, marks: Iterable[Mark], what: str) -> None:
        """Run until all `marks` are passed. DeviceFault if work on their devices failed; CaptureRefused in capture."""
        if self.thread.in_kernel:
            return  # what a kernel reads is there: it runs in its turn
        marks = list(marks)
        self.refuse_sync_in_capture(what, [mark.stream for mark in marks])
        with self.lock:
            self.heap.bury()
            self.scheduler.run_until(marks)
            self._raise_faults(sorted({mark.stream.device_index for mark in marks}), what)

    def poll(self, mark: Mark, what: str) -> bool:
        """Whether `mark` is passed now; if not, run one item on the way to it, after looking."""
        self.refuse_sync_in_capture(what, [mark.stream])
        with self.lock:
            if mark.passed:
                return True
            self.scheduler.step(mark)
            return False

    def synchronize(self, index: int) -> None:
        """Wait for every stream of the device."""
        state = self.state(index)
        with self.lock:
            self.heap.bury()
            pending = [s for s in self.scheduler.pending.values() if s.device_index == state.index]
            streams = {stream.stream_id: stream for stream in [*pending, state.default_stream]}
            self.wait([stream.mark() for stream in streams.values()], f"synchronize of sim:{index}")

    @contextmanager
    def inside_kernel(self, stream: SimStream) -> Iterator[None]:
        """While a kernel runs in its turn of `stream`: its device is current, and its operations run at once."""
        recording, self.thread.recording = self.thread.recording, None
        self.thread.in_kernel = True
        try:
            with self.use_stream(stream):
                yield
        finally:
            self.thread.in_kernel, self.thread.recording = False, recording

    def refuse_sync_in_capture(self, what: str, streams: Iterable[SimStream]) -> None:
        if not self.rules.capture_refuses_sync:
            return
        recording = self.thread.recording
        if recording is None:
            recording = next((stream.recording for stream in streams if stream.recording is not None), None)
        if recording is not None:
            raise CaptureRefused(
                f"{what} inside a graph capture on sim:{recording.device_index}: captured work does not run until "
                "replay, so nothing can be waited for or read; move it out of the capture"
            )

    # random numbers

    def draw_seed(self, index: int) -> int:
        return self.state(index).random.getrandbits(62)

    def manual_seed(self, seed: int, index: int | None = None) -> None:
        for state in self._devices if index is None else (self.state(index),):
            state.random.seed(f"{seed}:{state.index}")

    # inside

    def _new_device(self, index: int) -> DeviceState:
        budget = Budget(index, self.settings.memory, self.rules.enforce_budget)
        generator = random.Random(f"{torch.initial_seed()}:{index}")
        return DeviceState(index, budget, self._make_stream(index), generator, (index + 1) * DEVICE_SPAN)

    def _make_stream(self, index: int) -> SimStream:
        self._streams += 1
        return SimStream(self, index, self._streams)

    def _run_head(self, stream: SimStream) -> None:
        """Run the stream's first item, and the simulator's own work after it: that is no item for anybody who waits."""
        self._run(stream, stream.queue.popleft())
        while stream.queue and stream.queue[0].own:
            self._run(stream, stream.queue.popleft())

    def _run(self, stream: SimStream, work: Work) -> None:
        self.clock += MICROSECOND
        try:
            if not work.own:
                for cell in work.cells:
                    self.heap.refuse_unmapped(cell, f"{work.name}, submitted to {stream!r},")
            with torch.inference_mode(False), torch.no_grad():
                work.run(work.seed)
        except Exception as error:  # noqa: BLE001 - kept, and raised where the host next waits, as on a real device
            self._devices[stream.device_index].faults.append((f"{work.name} on {stream!r}", error))
            for result in work.writes:
                poison(result)
        finally:
            if not work.own:
                stream.completed += 1

    def _raise_faults(self, devices: Iterable[int], what: str) -> None:
        for index in devices:
            faults = self._devices[index].faults
            if faults:
                (name, first), *others = faults
                faults.clear()
                more = f" ({len(others)} more failed after it)" if others else ""
                raise DeviceFault(f"{what}: {name} failed: {first}{more}") from first
