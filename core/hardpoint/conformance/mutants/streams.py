"""Streams and events with a fault, and ones that are different and right."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from hardpoint.backend import Backend
from hardpoint.conformance.mutant import LegalVariant, Mutant
from hardpoint.conformance.mutants import _proxy


def _set(**changes: Any) -> Any:
    def change(made: Any) -> None:
        for name, value in changes.items():
            setattr(made, name, value)

    return change


wait_event_does_nothing = Mutant(
    "streams.wait-event-does-nothing",
    "streams.wait-event-orders-streams",
    "streams",
    "`stream.wait_event` is accepted and ignored.",
    lambda backend: _proxy.new_streams(backend, _set(wait_event=lambda event: None)),
)

wait_stream_does_nothing = Mutant(
    "streams.wait-stream-does-nothing",
    "streams.wait-stream-orders-streams",
    "streams",
    "`stream.wait_stream` is accepted and ignored.",
    lambda backend: _proxy.new_streams(backend, _set(wait_stream=lambda stream: None)),
)


def _waits_the_wrong_way(stream: Any) -> None:
    stream.wait_stream = lambda other: type(stream).wait_stream(other, stream)


waits_the_wrong_way = Mutant(
    "streams.waits-the-wrong-way",
    "streams.wait-stream-orders-streams",
    "streams",
    "`a.wait_stream(b)` makes b wait for a.",
    lambda backend: _proxy.new_streams(backend, _waits_the_wrong_way),
)


def _event_wait_does_nothing(stream: Any) -> None:
    def record_event(event: Any = None) -> Any:
        made = type(stream).record_event(stream, event)
        made.wait = lambda other=None: None
        # wait_event goes through the event as well; the fault is in event.wait alone.
        made.original_wait = lambda other=None: type(made).wait(made, other)
        return made

    stream.record_event = record_event
    stream.wait_event = lambda event: getattr(event, "original_wait", event.wait)(stream)


event_wait_does_nothing = Mutant(
    "streams.event-wait-does-nothing",
    "streams.event-wait-orders-streams",
    "streams",
    "`event.wait(stream)` is accepted and ignored.",
    lambda backend: _proxy.new_streams(backend, _event_wait_does_nothing),
)


def _ignores_other_devices(stream: Any) -> None:
    def wait_event(event: Any) -> None:
        if event.device_index == stream.device_index:
            type(stream).wait_event(stream, event)

    stream.wait_event = wait_event


ignores_other_devices = Mutant(
    "streams.ignores-other-devices",
    "streams.waits-cross-devices",
    "streams",
    "A stream does not wait for events of another device.",
    lambda backend: _proxy.new_streams(backend, _ignores_other_devices),
)

event_done_at_once = Mutant(
    "streams.event-done-at-once",
    "streams.event-query-is-honest",
    "streams",
    "An event says that it is done as soon as it is recorded.",
    lambda backend: _proxy.new_events(backend, _set(query=lambda: True)),
)

event_never_done = Mutant(
    "streams.event-never-done",
    "streams.event-query-is-honest",
    "streams",
    "An event that was recorded never says that it is done.",
    lambda backend: _proxy.new_events(backend, lambda event: setattr(event, "query", lambda: False)),
)


def _keeps_first_record(event: Any) -> None:
    def record(stream: Any = None) -> None:
        if not getattr(event, "was_recorded", False):
            event.was_recorded = True
            type(event).record(event, stream)

    event.record = record


keeps_first_record = Mutant(
    "streams.event-keeps-first-record",
    "streams.event-waits-for-last-record",
    "streams",
    "Recording an event again changes nothing: it stands for the first record.",
    lambda backend: _proxy.new_events(backend, _keeps_first_record),
)


def _synchronize_only_once(event: Any) -> None:
    def synchronize() -> None:
        if not getattr(event, "was_waited_for", False):
            event.was_waited_for = True
            type(event).synchronize(event)

    event.synchronize = synchronize


synchronized_only_once = Mutant(
    "streams.event-synchronizes-only-once",
    "streams.event-waits-for-last-record",
    "streams",
    "`event.synchronize` remembers that it was done, although the event was recorded again.",
    lambda backend: _proxy.new_events(backend, _synchronize_only_once),
)


def _pending_until_recorded(event: Any) -> None:
    recorded = threading.Event()

    def record(stream: Any = None) -> None:
        recorded.set()
        type(event).record(event, stream)

    event.record = record
    event.query = lambda: recorded.is_set() and type(event).query(event)


pending_until_recorded = Mutant(
    "streams.unrecorded-event-is-pending",
    "streams.unrecorded-event-is-done",
    "streams",
    "An event that was never recorded says that it is not done.",
    lambda backend: _proxy.new_events(backend, _pending_until_recorded),
)


def _records_another(stream: Any) -> None:
    stream.record_event = lambda event=None: type(stream).record_event(stream)


records_another_event = Mutant(
    "streams.records-another-event",
    "streams.recorded-event-is-returned",
    "streams",
    "`record_event(event)` records and returns a new event instead of the given one.",
    lambda backend: _proxy.new_streams(backend, _records_another),
)

stream_synchronize_does_nothing = Mutant(
    "streams.stream-synchronize-does-nothing",
    "streams.stream-synchronize-waits",
    "streams",
    "`stream.synchronize` returns at once.",
    lambda backend: _proxy.new_streams(backend, _set(synchronize=lambda: None)),
)

stream_always_done = Mutant(
    "streams.stream-always-done",
    "streams.stream-query-is-honest",
    "streams",
    "`stream.query` always says done.",
    lambda backend: _proxy.new_streams(backend, _set(query=lambda: True)),
)


def _use_stream_ignored(backend: Backend) -> Backend:
    claimed: dict[int, Any] = {}

    @contextlib.contextmanager
    def use_stream(stream: Any) -> Iterator[None]:
        index = stream.device_index
        before = claimed.get(index)
        claimed[index] = stream
        with backend.device.use(index):
            try:
                yield
            finally:
                claimed[index] = before

    def current_stream(index: int | None = None) -> Any:
        place = backend.device.current() if index is None else index
        return claimed.get(place) or backend.device.current_stream(index)

    return _proxy.device(backend, use_stream=use_stream, current_stream=current_stream)


use_stream_ignored = Mutant(
    "streams.use-stream-ignored",
    "streams.use-stream-takes-the-work",
    "streams",
    "`use_stream` reports its stream as current, but work goes to the default stream.",
    _use_stream_ignored,
)


def _stays_in_use(backend: Backend) -> Backend:
    state = threading.local()

    @contextlib.contextmanager
    def use_stream(stream: Any) -> Iterator[None]:
        with backend.device.use_stream(stream):
            try:
                yield
            except BaseException:
                state.left = stream
                raise

    def current_stream(index: int | None = None) -> Any:
        left = getattr(state, "left", None)
        place = backend.device.current() if index is None else index
        return left if left is not None and left.device_index == place else backend.device.current_stream(index)

    return _proxy.device(backend, use_stream=use_stream, current_stream=current_stream)


stays_in_use = Mutant(
    "streams.stream-stays-after-exception",
    "streams.current-stream-is-restored",
    "streams",
    "An exception inside `use_stream` leaves its stream current.",
    _stays_in_use,
)


def _keeps_device(backend: Backend) -> Backend:
    @contextlib.contextmanager
    def use_stream(stream: Any) -> Iterator[None]:
        before = backend.device.current()
        with backend.device.use_stream(stream), backend.device.use(before):
            yield

    return _proxy.device(backend, use_stream=use_stream)


keeps_device = Mutant(
    "streams.use-stream-keeps-device",
    "streams.current-stream-is-restored",
    "streams",
    "`use_stream` does not make the stream's device current.",
    _keeps_device,
)


def _global_stream(backend: Backend) -> Backend:
    shared: list[Any] = []

    @contextlib.contextmanager
    def use_stream(stream: Any) -> Iterator[None]:
        shared.append(stream)
        with backend.device.use_stream(stream):
            try:
                yield
            finally:
                shared.pop()

    def current_stream(index: int | None = None) -> Any:
        place = backend.device.current() if index is None else index
        mine = [stream for stream in shared if stream.device_index == place]
        return mine[-1] if mine else backend.device.current_stream(index)

    return _proxy.device(backend, use_stream=use_stream, current_stream=current_stream)


global_stream = Mutant(
    "streams.global-current-stream",
    "streams.current-stream-is-per-thread",
    "streams",
    "The current stream is one for the process instead of one per thread.",
    _global_stream,
)


time_runs_backward = Mutant(
    "streams.time-runs-backward",
    "streams.time-runs-forward",
    "streams",
    "`elapsed_time` takes start and end the wrong way round.",
    lambda backend: _proxy.new_events(
        backend,
        lambda event: setattr(event, "elapsed_time", lambda end: -type(event).elapsed_time(event, end)),
    ),
)


def _splits_work(backend: Backend) -> Backend:
    """Work under `use_stream` alternates between two queues."""

    @contextlib.contextmanager
    def use_stream(stream: Any) -> Iterator[None]:
        twin = getattr(stream, "twin", None)
        if twin is None:
            twin = stream.twin = backend.device.stream(stream.device_index)
            stream.entered = 0
        stream.entered += 1
        with backend.device.use_stream(twin if stream.entered % 2 == 0 else stream):
            yield

    def current_stream(index: int | None = None) -> Any:
        return backend.device.current_stream(index)

    return _proxy.device(backend, use_stream=use_stream, current_stream=current_stream)


splits_a_stream = Mutant(
    "streams.splits-a-stream",
    "streams.programs-give-the-serial-result",
    "streams",
    "Entering a stream a second time puts the work into another queue.",
    _splits_work,
)


def _reorders(backend: Backend) -> Backend:
    """Every other operation under `use_stream` goes to a queue of its own."""
    from torch.overrides import TorchFunctionMode

    class Alternate(TorchFunctionMode):
        def __init__(self, twin: Any) -> None:
            super().__init__()
            self.twin, self.calls = twin, 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.calls += 1
            if self.calls % 2:
                return func(*args, **(kwargs or {}))
            with backend.device.use_stream(self.twin):
                return func(*args, **(kwargs or {}))

    @contextlib.contextmanager
    def use_stream(stream: Any) -> Iterator[None]:
        with backend.device.use_stream(stream), Alternate(backend.device.stream(stream.device_index)):
            yield

    return _proxy.device(backend, use_stream=use_stream)


reorders_work = Mutant(
    "streams.reorders-work",
    "streams.work-is-ordered",
    "streams",
    "Work of one stream is spread over two queues that do not wait for each other.",
    _reorders,
)

reorders_host_copies = Mutant(
    "streams.reorders-host-copies",
    "streams.host-copies-keep-their-order",
    "streams",
    "Copies to the host run beside the stream that they were queued on.",
    _reorders,
)


def _late_binding(backend: Backend) -> Backend:
    """A wait is looked up when the waiting stream next gets work, not when it is asked for."""

    def change(stream: Any) -> None:
        waiting: list[Any] = []
        stream.wait_event = waiting.append

        def synchronize() -> None:
            for event in waiting:
                event.synchronize()
            type(stream).synchronize(stream)

        stream.synchronize = synchronize

    return _proxy.new_streams(backend, change)


wait_binds_late = Mutant(
    "streams.wait-binds-late",
    "streams.wait-binds-at-the-call",
    "streams",
    "`wait_event` is kept until the stream is waited for, and then means whatever the event was recorded for last.",
    _late_binding,
)


def _eager(backend: Backend) -> Backend:
    """Every operation is waited for as soon as it is queued."""
    from torch.overrides import TorchFunctionMode

    class AtOnce(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            backend.device.current_stream().synchronize()
            return result

    @contextlib.contextmanager
    def use_stream(stream: Any) -> Iterator[None]:
        with backend.device.use_stream(stream), AtOnce():
            yield

    return _proxy.device(backend, use_stream=use_stream)


eager = LegalVariant(
    "streams.eager",
    "streams",
    "Work is done before the call that queues it returns: no law may ask for work to be late.",
    _eager,
    parts=("device", "streams"),
)


def _waits_for_everything(backend: Backend) -> Backend:
    def change(stream: Any) -> None:
        def wait_event(event: Any) -> None:
            event.synchronize()

        stream.wait_event = wait_event

    return _proxy.new_streams(backend, change)


host_waits = LegalVariant(
    "streams.host-waits-for-events",
    "streams",
    "`stream.wait_event` blocks the host until the event is done: more synchronisation than asked for.",
    _waits_for_everything,
    parts=("device", "streams"),
)


def _one_stream(backend: Backend) -> Backend:
    made: dict[int, Any] = {}

    def stream(index: int | None = None) -> Any:
        place = backend.device.current() if index is None else index
        if place not in made:
            made[place] = backend.device.stream(index)
        backend.device.identity(place)
        return made[place]

    return _proxy.device(backend, stream=stream)


one_stream = LegalVariant(
    "streams.one-stream-per-device",
    "streams",
    "Every new stream of a device is the same queue: in order, therefore right.",
    _one_stream,
    parts=("streams",),
)
