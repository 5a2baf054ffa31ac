"""Laws of streams and events: order within a stream, order between streams, and who is told that work is done.

Running everything at once, in order with the host, keeps every one of them: no law asks for work to be late.
"""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from hardpoint.conformance.context import LawContext
from hardpoint.conformance.law import law
from hardpoint.conformance.laws._work import complete, host_buffer, keep_busy, late_result


@law(part="streams", id="streams.work-is-ordered", deadline=30)
def work_is_ordered(context: LawContext) -> None:
    """Work queued on one stream runs in the order in which it was queued."""
    device = context.backend.device
    for index in context.device_indices:
        stream = device.stream(index)
        value = context.full(8, value=1.0, index=index)
        expected = 1.0
        with device.use_stream(stream):
            keep_busy(context, index)
            for step in range(12):
                value.mul_(2.0).add_(float(step))
                expected = expected * 2.0 + step
        stream.synchronize()
        context.equal(value, torch.full((8,), expected), f"twelve dependent steps on a stream of device {index}")


@law(part="streams", id="streams.stream-synchronize-waits", deadline=30)
def stream_synchronize_waits(context: LawContext) -> None:
    """After `stream.synchronize()` everything queued on that stream is done, and the host sees its results."""
    stream = context.backend.device.stream()
    buffer = late_result(context, stream, 3.0)
    stream.synchronize()
    context.check(complete(buffer, 3.0), f"synchronize() returned before the copy arrived: found {buffer.tolist()}")
    context.check(stream.query(), "synchronize() returned, but query() says that the stream is not done")


@law(part="streams", id="streams.stream-query-is-honest", deadline=30)
def stream_query_is_honest(context: LawContext) -> None:
    """A stream says that it is done only when its work is, and says so within a finite number of questions."""
    stream = context.backend.device.stream()
    buffer = late_result(context, stream, 4.0)
    context.check(context.eventually(stream.query), "the stream never said that it was done, within 5 s")
    context.check(complete(buffer, 4.0), f"query() said done before the copy had arrived: found {buffer.tolist()}")


@law(part="streams", id="streams.event-query-is-honest", deadline=30)
def event_query_is_honest(context: LawContext) -> None:
    """An event says that it is done only when the work before its last record is, and says so in the end."""
    device = context.backend.device
    stream, event = device.stream(), device.event()
    buffer = late_result(context, stream, 5.0)
    event.record(stream)
    context.check(context.eventually(event.query), "the event never said that it was done, within 5 s")
    context.check(complete(buffer, 5.0), f"query() said done before the copy had arrived: found {buffer.tolist()}")


@law(part="streams", id="streams.event-waits-for-last-record", deadline=30)
def event_waits_for_last_record(context: LawContext) -> None:
    """An event that is recorded again stands for the last record: synchronize and query wait for the work before it."""
    device = context.backend.device
    for ask in ("synchronize", "query"):
        stream, event = device.stream(), device.event()
        first = late_result(context, stream, 6.0)
        event.record(stream)
        event.synchronize()
        context.check(complete(first, 6.0), f"the first record was waited for, its work is not done: {first.tolist()}")
        second = late_result(context, stream, 7.0)
        event.record(stream)
        if ask == "synchronize":
            event.synchronize()
        else:
            context.check(context.eventually(event.query), "the event never said that it was done, within 5 s")
        context.check(
            complete(second, 7.0),
            f"{ask}() after a second record answered for the first one: the work before the second had not arrived, "
            f"found {second.tolist()}",
        )


@law(part="streams", id="streams.unrecorded-event-is-done", deadline=20)
def unrecorded_event_is_done(context: LawContext) -> None:
    """An event that was never recorded counts as done: it answers at once, and waiting for it holds nothing up."""
    device = context.backend.device
    event, stream = device.event(), device.stream()
    context.check(event.query(), "query() of an event that was never recorded says not done")
    event.synchronize()
    stream.wait_event(event)
    buffer = late_result(context, stream, 2.0)
    stream.synchronize()
    context.check(complete(buffer, 2.0), f"work behind a wait for an unrecorded event did not run: {buffer.tolist()}")


@law(part="streams", id="streams.recorded-event-is-returned", deadline=20)
def recorded_event_is_returned(context: LawContext) -> None:
    """`record_event` returns the event it recorded, the given one or a new one, and it stands for the work so far."""
    device = context.backend.device
    given = device.event()
    for event in (given, None):
        stream = device.stream()
        buffer = late_result(context, stream, 9.0)
        returned = stream.record_event(event)
        context.check(returned is not None, "record_event() returned None, expected the event")
        context.check(event is None or returned == event, f"record_event({event}) returned another event: {returned}")
        returned.synchronize()
        context.check(complete(buffer, 9.0), f"the event was done before the work recorded: found {buffer.tolist()}")


def _ordered(context: LawContext, wait: str, consumer_index: int, producer_index: int) -> None:
    device = context.backend.device
    producer, consumer = device.stream(producer_index), device.stream(consumer_index)
    source = context.full(16, value=1.0, index=producer_index)
    result = context.full(16, value=0.0, index=consumer_index)
    for index in {consumer_index, producer_index}:
        device.synchronize(index)
    with device.use_stream(producer):
        keep_busy(context, producer_index)
        source.add_(41.0)
    if wait == "wait_stream":
        consumer.wait_stream(producer)
    else:
        event = producer.record_event()
        if wait == "wait_event":
            consumer.wait_event(event)
        else:
            event.wait(consumer)
    with device.use_stream(consumer):
        result.copy_(source)
    consumer.synchronize()
    for index in {consumer_index, producer_index}:
        device.synchronize(index)
    context.equal(
        result,
        torch.full((16,), 42.0),
        f"a stream of device {consumer_index} behind one of device {producer_index} by {wait}, reading what it wrote",
    )


@law(part="streams", id="streams.wait-event-orders-streams", deadline=30)
def wait_event_orders_streams(context: LawContext) -> None:
    """Work queued after `wait_event` runs after the event's record: it reads what the other stream wrote."""
    for index in context.device_indices:
        _ordered(context, "wait_event", index, index)


@law(part="streams", id="streams.event-wait-orders-streams", deadline=30)
def event_wait_orders_streams(context: LawContext) -> None:
    """Work queued on a stream after `event.wait(stream)` runs after the event's record."""
    for index in context.device_indices:
        _ordered(context, "event.wait", index, index)


@law(part="streams", id="streams.wait-stream-orders-streams", deadline=30)
def wait_stream_orders_streams(context: LawContext) -> None:
    """Work queued after `wait_stream` runs after all that the other stream held at the call."""
    for index in context.device_indices:
        _ordered(context, "wait_stream", index, index)


@law(part="streams", id="streams.waits-cross-devices", devices=2, deadline=30)
def waits_cross_devices(context: LawContext) -> None:
    """A stream of one device can wait for a stream and an event of another."""
    last = len(context.device_indices) - 1
    for wait in ("wait_event", "event.wait", "wait_stream"):
        _ordered(context, wait, 0, last)
        _ordered(context, wait, last, 0)


@law(part="streams", id="streams.wait-binds-at-the-call", deadline=30)
def wait_binds_at_the_call(context: LawContext) -> None:
    """A wait is for the record that is the last at the call: recording the event again later changes nothing for it."""
    device = context.backend.device
    first, second, event = device.stream(), device.stream(), device.event()
    value = context.full(4, value=1.0)
    device.synchronize()
    event.record(first)
    second.wait_event(event)
    with device.use_stream(second):
        value.add_(1.0)
    # If the wait above meant this record, the two streams would wait for each other for ever.
    first.wait_stream(second)
    with device.use_stream(first):
        value.mul_(10.0)
    event.record(first)
    second.synchronize()
    first.synchronize()
    context.equal(value, torch.full((4,), 20.0), "two streams that hand a value to and fro")


@law(part="streams", id="streams.use-stream-takes-the-work", deadline=30)
def use_stream_takes_the_work(context: LawContext) -> None:
    """Inside `use_stream(s)` work is queued on s, s is the current stream, and an event without a stream is s's."""
    device = context.backend.device
    stream, event = device.stream(), device.event()
    buffer = late_result(context, stream, 8.0)
    with device.use_stream(stream):
        context.check(device.current_stream() == stream, f"the current stream is {device.current_stream()}")
        event.record()
    event.synchronize()
    context.check(
        complete(buffer, 8.0), f"an event recorded on the current stream did not stand for it: {buffer.tolist()}"
    )
    again = late_result(context, stream, 9.0)
    stream.synchronize()
    context.check(complete(again, 9.0), f"work under use_stream was not queued on that stream: {again.tolist()}")


@law(part="streams", id="streams.current-stream-is-restored", deadline=30)
def current_stream_is_restored(context: LawContext) -> None:
    """`use_stream` gives back the stream and device before it, however deep, also when the block raises."""
    device = context.backend.device
    streams = [device.stream(index) for index in context.device_indices for _ in range(2)]

    def now() -> tuple[int, list[Any]]:
        return device.current(), [device.current_stream(index) for index in context.device_indices]

    def enter(path: list[tuple[int, bool]]) -> None:
        if not path:
            return
        (number, raises), *rest = path
        before = now()
        try:
            with device.use_stream(streams[number]):
                found = device.current_stream()
                context.check(found == streams[number], f"inside use_stream the current stream is {found}")
                index = number // 2
                context.check(
                    device.current() == index, f"a stream of device {index} is in use, current is {device.current()}"
                )
                enter(rest)
                if raises:
                    raise KeyError(number)
        except KeyError:
            pass
        way = "by an exception" if raises else "normally"
        context.check(now() == before, f"use_stream was left {way}: device and streams were {before}, are now {now()}")

    steps = st.tuples(st.integers(0, len(streams) - 1), st.booleans())
    context.examples(enter, count=30, path=st.lists(steps, min_size=1, max_size=4))


@law(part="streams", id="streams.current-stream-is-per-thread", deadline=20)
def current_stream_is_per_thread(context: LawContext) -> None:
    """The current stream is per thread: a thread sees the default stream while another uses one of its own."""
    device = context.backend.device
    default = device.current_stream()
    mine = device.stream()

    def other() -> tuple[Any, Any]:
        before = device.current_stream()
        theirs = device.stream()
        with device.use_stream(theirs):
            return before, device.current_stream() == theirs

    with device.use_stream(mine):
        before, own = context.in_thread(other)
        context.check(before == default, f"a new thread sees {before}, the stream in use in another thread")
        context.check(own, "use_stream in another thread did not make its stream current there")
        context.check(device.current_stream() == mine, "use_stream in another thread changed the current stream here")


@law(part="streams", id="streams.time-runs-forward", deadline=30)
def time_runs_forward(context: LawContext) -> None:
    """Timing events in one stream give milliseconds that never go back and add up."""
    device = context.backend.device
    stream = device.stream()
    events = [device.event(timing=True) for _ in range(3)]
    with device.use_stream(stream):
        for event in events:
            keep_busy(context)
            event.record(stream)
    stream.synchronize()
    first, second, both = (events[a].elapsed_time(events[b]) for a, b in ((0, 1), (1, 2), (0, 2)))
    context.check(first >= 0 and second >= 0, f"time ran backwards: {first} ms, then {second} ms")
    context.check(both > 0, f"two rounds of work took {both} ms")
    off = abs(first + second - both)
    context.check(off <= 0.05 + 0.01 * both, f"{first} ms and {second} ms should add up to {both} ms")


@law(part="streams", id="streams.programs-give-the-serial-result", deadline=60)
def programs_give_the_serial_result(context: LawContext) -> None:
    """Any program over several streams, with a wait wherever a value changes streams, gives the serial result."""
    device = context.backend.device
    streams = [device.stream() for _ in range(3)]

    def run(program: list[tuple[int, int, int]]) -> None:
        values = [context.full(4, value=float(n)) for n in range(3)]
        expected = [float(n) for n in range(3)]
        touched: list[Any] = [None] * 3
        device.synchronize()
        for step, (stream, into, source) in enumerate(program):
            for operand in {into, source}:
                if touched[operand] is not None and touched[operand] != stream:
                    streams[stream].wait_stream(streams[touched[operand]])
                touched[operand] = stream
            with device.use_stream(streams[stream]):
                values[into].mul_(0.5).add_(values[source]).add_(float(step))
            factor = expected[into] * 0.5
            expected[into] = factor + (factor if into == source else expected[source]) + step
        device.synchronize()
        for number, value in enumerate(values):
            context.close(value, torch.full((4,), expected[number]), f"value {number} after {len(program)} steps")

    step = st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2))
    context.examples(run, count=25, program=st.lists(step, min_size=2, max_size=10))


@law(part="streams", id="streams.host-copies-keep-their-order", deadline=30)
def host_copies_keep_their_order(context: LawContext) -> None:
    """Copies to the host on one stream arrive in order: a buffer holds what was copied into it last."""
    device = context.backend.device
    stream = device.stream()
    source = context.full(4, value=0.0)
    buffer = host_buffer(context, 4)
    device.synchronize()
    with device.use_stream(stream):
        keep_busy(context)
        for _ in range(5):
            source.add_(1.0)
            buffer.copy_(source, non_blocking=True)
    stream.synchronize()
    context.check(complete(buffer, 5.0), f"five copies in a row: expected the fifth, 5.0, found {buffer.tolist()}")
