"""The simulated machine: devices, the calling thread's current device and streams, and everything submitted to them.

One engine is active per process, because torch's PrivateUse1 slot is one per process: factories such as
``torch.empty(..., device="sim:1")`` allocate there. Tensors, streams and events stay with the engine that made them.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from hardpoint.errors import CaptureRefused, DeviceError

from hardpoint_sim.errors import DeviceFault, UnmappedAccess
from hardpoint_sim.memory import ALIGNMENT, DEVICE_SPAN, Block, Budget, Cell, human
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
    faults: list[tuple[SimStream, Exception]] = field(default_factory=list)


class _Thread(threading.local):
    """Per thread: current device, current stream per device, pool of new allocations, running capture."""

    def __init__(self) -> None:
        self.device = 0
        self.streams: dict[int, SimStream] = {}
        self.tag = ""
        self.recording: Recording | None = None


class Engine:
    """All state of one simulator. Every public method may be called from any thread."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.rules = settings.rules
        self.lock = threading.RLock()
        self.clock = 0.0
        self.submissions = 0
        self.scheduler = Scheduler(settings.seed, self.rules.adversarial, self._run_head)
        self.graveyard: deque[tuple[Cell, SimStream]] = deque()
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
            if stream.recording is not None:
                stream.recording.append(stream, work)
                return
            self.bury()
            self._enqueue(stream, work)
            if not self.rules.execute_late:
                self.scheduler.run_until([stream.mark()])
            elif len(stream.queue) > self.rules.max_pending:
                self.scheduler.run_until([Mark(stream, stream.completed + 1)])

    def wait(self, marks: Iterable[Mark], what: str) -> None:
        """Run until all `marks` are passed. DeviceFault if work on their devices failed; CaptureRefused in capture."""
        marks = list(marks)
        self.refuse_sync_in_capture(what, [mark.stream for mark in marks])
        with self.lock:
            self.bury()
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
            self.bury()
            pending = [s for s in self.scheduler.pending.values() if s.device_index == state.index]
            streams = {stream.stream_id: stream for stream in [*pending, state.default_stream]}
            self.wait([stream.mark() for stream in streams.values()], f"synchronize of sim:{index}")

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

    # memory

    def allocate(self, index: int, shape: Iterable[int], stride: Iterable[int], dtype: torch.dtype, what: str) -> Block:
        """A poisoned allocation that can hold a tensor of this shape and stride; see `Block.cell` for its bytes."""
        state = self.state(index)
        elements = _extent(tuple(shape), tuple(stride))
        size = max(1, -(-elements * dtype.itemsize // ALIGNMENT)) * ALIGNMENT if elements else 0
        stream = self.current_stream(index)
        if stream.recording is not None and self.rules.capture_refuses_allocation and size:
            raise CaptureRefused(
                f"{what} allocates {human(size)} inside a graph capture on sim:{index}; a replay would write to memory "
                "that others own by then: allocate before the capture and write with out= or in place"
            )
        with self.lock:
            self.bury()
            state.budget.take(size, what)
            flat = torch.empty(elements, dtype=dtype, device="cpu")
            if self.rules.poison_empty:
                poison(flat)
            else:
                flat.zero_()
            cell = Cell(flat, index, state.next_address, size, self.thread.tag)
            state.next_address += max(size, ALIGNMENT)
            state.cells[cell.address] = cell
        return Block(cell, stream, self.graveyard, self)

    def bury(self) -> None:
        """Account for blocks whose last tensor is gone: free their bytes, and poison them in stream order.

        As in a caching allocator, the memory is at once free for the stream that it was allocated on. Another stream
        that still uses it has to be waited for, or to be named with `Tensor.record_stream`.
        """
        while self.graveyard:
            cell, stream = self.graveyard.popleft()
            cell.freed = True
            state = self._devices[cell.device]
            del state.cells[cell.address]
            if cell.mapped:
                state.budget.give(cell.size)
            if self.rules.poison_on_free:
                after = tuple(other.mark() for other in cell.recorded if other is not stream)
                work = Work("reuse of freed memory", partial(_poison, cell), after=after, check_mapped=False)
                self._enqueue(stream, work)
                if not self.rules.execute_late:
                    self.scheduler.run_until([stream.mark()])

    def refuse_unmapped(self, cell: Cell, what: str) -> None:
        if self.rules.check_mapped and not cell.mapped:
            raise UnmappedAccess(
                f"{what} uses unmapped memory ({cell.describe()}): it was given back by sleep; map it, and write it, "
                "before anything reads it"
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

    def _enqueue(self, stream: SimStream, work: Work) -> None:
        self.submissions += 1
        seed = self.draw_seed(stream.device_index) if work.random else 0
        stream.queue.append(replace(work, seed=seed, submission=self.submissions))
        stream.submitted += 1
        stream.last_submission = self.submissions
        self.scheduler.pending[stream.stream_id] = stream

    def _run_head(self, stream: SimStream) -> None:
        work = stream.queue.popleft()
        self.clock += MICROSECOND
        try:
            if work.check_mapped:
                for cell in work.cells:
                    self.refuse_unmapped(cell, f"{work.name}, submitted to {stream!r},")
            with torch.inference_mode(False), torch.no_grad():
                work.run(work.seed)
        except Exception as error:  # noqa: BLE001 - kept, and raised where the host next waits, as on a real device
            self._devices[stream.device_index].faults.append((stream, error))
            for result in work.writes:
                poison(result)
        finally:
            stream.completed += 1

    def _raise_faults(self, devices: Iterable[int], what: str) -> None:
        for index in devices:
            faults = self._devices[index].faults
            if faults:
                (stream, first), *others = faults
                faults.clear()
                more = f" ({len(others)} more failed after it)" if others else ""
                raise DeviceFault(f"{what}: work on {stream!r} failed: {first}{more}") from first


def _poison(cell: Cell, _: int) -> None:
    poison(cell.flat)


def _extent(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Elements between the first and the last one of a strided tensor, both included."""
    if any(size == 0 for size in shape):
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
