"""Laws of graphs: capture records and runs nothing, replay does what was recorded, the rest is refused aloud."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from hypothesis import strategies as st

from hardpoint.conformance.claims import GRAPH
from hardpoint.conformance.context import LawContext
from hardpoint.conformance.law import law
from hardpoint.conformance.laws._kernels import add_kernel
from hardpoint.conformance.laws._work import keep_busy
from hardpoint.errors import CaptureRefused


@law(part="graphs", id="graphs.unsupported-is-refused", deadline=30)
def unsupported_is_refused(context: LawContext) -> None:
    """Where `supported` gives a reason, a capture is refused with it and its block does not run.

    A backend that declares graphs supports them on all its devices; one that does not declares why not.
    """
    graphs, claimed = context.backend.graphs, context.backend.capabilities.graph
    context.check(not graphs.capturing(), "capturing() is true although nothing is being captured")
    for index in context.device_indices:
        reason = graphs.supported(index)
        if claimed:
            context.check(reason is None, f"graphs are declared, and device {index} refuses them: {reason}")
            continue
        context.check(reason, f"graphs are not declared, and supported({index}) gives no reason")
        ran = False
        refusal = context.refuses(f"a capture on device {index}", CaptureRefused, naming=[reason or ""])
        with refusal, graphs.capture(index):
            ran = True
        context.check(not ran, "the block of a refused capture ran")
    with context.refuses("a capture on a device that is not there"), graphs.capture(len(context.device_indices)):
        context.note("the block of a capture on a device that is not there ran")


@law(part="graphs", id="graphs.capture-records-and-replay-runs", claim=GRAPH, deadline=30)
def capture_records_and_replay_runs(context: LawContext) -> None:
    """What the block does is done once in every replay, in order, and not during capture."""

    def check(steps: list[tuple[str, int]], replays: int) -> None:
        index = context.device_indices[-1]
        value = context.full(8, value=1.0, index=index)
        with context.backend.graphs.capture(index) as graph:
            for name, number in steps:
                if name == "add":
                    value.add_(float(number))
                else:
                    value.mul_(float(number))
        expected = torch.ones(8)
        context.equal(value, expected, "a tensor after the capture and before any replay")
        for _ in range(replays):
            with context.backend.device.use(index):
                graph.replay()
            for name, number in steps:
                expected = expected + number if name == "add" else expected * number
        context.equal(value, expected, f"{steps} replayed {replays} times")

    step = st.tuples(st.sampled_from(["add", "mul"]), st.integers(1, 3))
    context.examples(check, count=20, steps=st.lists(step, min_size=1, max_size=5), replays=st.integers(0, 3))


@law(part="graphs", id="graphs.replay-reads-the-captured-addresses", claim=GRAPH, deadline=30)
def replay_reads_the_captured_addresses(context: LawContext) -> None:
    """A replay reads what is at the captured addresses now, and writes there: no value is frozen, no tensor swapped."""
    for index in context.device_indices:
        x, out = context.full(8, value=1.0, index=index), context.full(8, value=0.0, index=index)
        kept = out
        with context.backend.graphs.capture(index) as graph:
            torch.mul(x, 3.0, out=out)
        out = context.full(8, value=-1.0, index=index)  # another tensor under the same name
        with context.backend.device.use(index):
            for value in (1.0, 7.0, -2.0):
                x.fill_(value)
                graph.replay()
                context.equal(kept, torch.full((8,), 3.0 * value), f"x * 3 replayed after x became {value}")
        context.equal(out, torch.full((8,), -1.0), "a tensor that was made after the capture")


@law(part="graphs", id="graphs.replay-is-in-stream-order", claim=GRAPH, deadline=30)
def replay_is_in_stream_order(context: LawContext) -> None:
    """A replay runs in the current stream: after what is queued there, before what comes later."""
    device = context.backend.device
    for index in context.device_indices:
        x, out, seen = (context.full(8, value=value, index=index) for value in (1.0, 0.0, 0.0))
        with context.backend.graphs.capture(index) as graph:
            torch.mul(x, 2.0, out=out)
        stream = device.stream(index)
        device.synchronize(index)
        with device.use_stream(stream):
            keep_busy(context, index)
            x.fill_(4.0)
            graph.replay()
            seen.copy_(out)
            x.fill_(50.0)
            graph.replay()
        stream.synchronize()
        context.equal(seen, torch.full((8,), 8.0), f"a replay between two writes of its input on device {index}")
        context.equal(out, torch.full((8,), 100.0), f"the second replay on the stream of device {index}")


@law(part="graphs", id="graphs.capturing-tells-the-truth", claim=GRAPH, deadline=30)
def capturing_tells_the_truth(context: LawContext) -> None:
    """`capturing` is true inside a capture, for the capturing thread alone, and false after it, also after an error."""
    graphs, device = context.backend.graphs, context.backend.device
    for index in context.device_indices:
        before = device.current()
        x = context.full(4, value=1.0, index=index)
        with graphs.capture(index):
            x.add_(1.0)
            context.check(graphs.capturing(), f"capturing() is false inside a capture on device {index}")
            # Whether another thread may ask the device anything now is not said; that it is not capturing is.
            context.check(
                not context.in_thread(graphs.capturing), "capturing() is true in a thread that captures nothing"
            )
        context.check(not graphs.capturing(), "capturing() is still true after the capture")
        context.check(device.current() == before, f"a capture left device {device.current()} current, it was {before}")
        try:
            with graphs.capture(index):
                raise ArithmeticError("planted")
        except ArithmeticError:
            pass
        else:
            context.fail("an error inside a capture was swallowed")
        context.check(not graphs.capturing(), "capturing() is still true after a capture that failed")
        context.check(device.current() == before, f"a failed capture left device {device.current()} current")


@law(part="graphs", id="graphs.a-failed-capture-cannot-be-replayed", claim=GRAPH, deadline=30)
def a_failed_capture_cannot_be_replayed(context: LawContext) -> None:
    """After an error in its block a graph refuses to replay, nothing of it has run, and the next capture works."""
    graphs, index = context.backend.graphs, context.device_index
    x, held = context.full(4, value=1.0), []
    try:
        with graphs.capture(index) as broken:
            held.append(broken)
            x.add_(1.0)
            raise ArithmeticError("planted")
    except ArithmeticError:
        pass
    with context.refuses("the replay of a graph whose capture failed"):
        held[0].replay()
    context.equal(x, torch.ones(4), "a tensor that a failed capture and a refused replay were about")
    with graphs.capture(index) as graph:
        x.add_(5.0)
    graph.replay()
    context.equal(x, torch.full((4,), 6.0), "a tensor after the capture and replay that followed a failed one")


@law(part="graphs", id="graphs.nested-capture-is-refused", claim=GRAPH, deadline=30)
def nested_capture_is_refused(context: LawContext) -> None:
    """A capture inside a capture is refused."""
    graphs, index = context.backend.graphs, context.device_index
    with context.refuses("a capture inside a capture"), graphs.capture(index), graphs.capture(index):
        context.note("the inner block ran")
    context.check(not graphs.capturing(), "capturing() is still true after a nested capture was refused")


@law(part="graphs", id="graphs.reads-in-a-capture-are-refused", claim=GRAPH, deadline=30)
def reads_in_a_capture_are_refused(context: LawContext) -> None:
    """Reading a value or waiting for the device inside a capture is an error: what was captured has not run."""
    graphs, device, index = context.backend.graphs, context.backend.device, context.device_index
    x = context.full(1, value=1.0)
    # None of these allocates on the device: a backend that refuses allocations has to refuse reads as well.
    reads: dict[str, Callable[[], object]] = {
        "reading a value": x.item,
        "reading a list": x.tolist,
        "a copy to the host": x.cpu,
        "waiting for the device": lambda: device.synchronize(index),
        "waiting for the stream": lambda: device.current_stream(index).synchronize(),
    }
    for name, read in reads.items():
        with context.refuses(f"{name} inside a capture"), graphs.capture(index):
            x.add_(1.0)
            read()
        context.check(not graphs.capturing(), f"capturing() is still true after {name} was refused in a capture")
    context.equal(x, torch.ones(1), "a tensor after captures that failed and were never replayed")


@law(part="graphs", id="graphs.allocations-in-a-capture-harm-nobody", claim=GRAPH, deadline=30)
def allocations_in_a_capture_harm_nobody(context: LawContext) -> None:
    """An allocation inside a capture is refused, or belongs to the graph: its replay writes to nobody else's memory."""
    index = context.device_index
    x, out = context.full(1024, value=2.0), context.full(1024, value=0.0)
    try:
        with context.backend.graphs.capture(index) as graph:
            between = x * 5.0
            torch.add(between, 1.0, out=out)
            del between
    except CaptureRefused:
        context.check(not context.backend.graphs.capturing(), "capturing() is still true after a refused allocation")
        context.note("allocations inside a capture are refused")
        return
    others = [context.full(1024, value=7.0) for _ in range(8)]
    for value in (2.0, 3.0):
        x.fill_(value)
        graph.replay()
        context.equal(out, torch.full((1024,), value * 5.0 + 1.0), f"a graph that allocates, where x is {value}")
    for other in others:
        context.equal(other, torch.full((1024,), 7.0), "memory that was allocated after the capture, after a replay")


@law(part="graphs", id="graphs.graphs-are-independent", claim=GRAPH, deadline=30)
def graphs_are_independent(context: LawContext) -> None:
    """Several graphs, on several devices, replay in any order; each does its own work, also when one is dropped."""
    tensors = {index: context.full(4, value=0.0, index=index) for index in context.device_indices}
    made = []
    for number in (1.0, 10.0, 100.0):
        for index, tensor in tensors.items():
            with context.backend.graphs.capture(index) as graph:
                tensor.add_(number)
            made.append((index, number, graph))
    expected = dict.fromkeys(tensors, 0.0)
    del made[0]
    gc.collect()
    for index, number, graph in [*reversed(made), *made[1:]]:
        with context.backend.device.use(index):
            graph.replay()
        expected[index] += number
    for index, tensor in tensors.items():
        context.equal(tensor, torch.full((4,), expected[index]), f"a tensor of device {index} after several graphs")


@law(part="graphs", id="graphs.kernels-stay-loaded", claim=GRAPH, deadline=30)
def kernels_stay_loaded(context: LawContext) -> None:
    """A kernel stays loaded while a graph may replay it, also when nobody else holds it any more."""
    out, x = context.full(4, value=0.0), context.full(4, value=1.0)
    kernel = add_kernel()
    context.backend.launcher.preload(kernel, out, x)
    with context.backend.graphs.capture(context.device_index) as graph:
        context.backend.launcher.launch(kernel, out, x)
    del kernel
    gc.collect()
    others = [add_kernel() for _ in range(20)]
    for other in others:
        context.backend.launcher.launch(other, x, context.full(4, value=0.0))
    graph.replay()
    graph.replay()
    context.equal(out, torch.full((4,), 2.0), "the output of a graph whose kernel was dropped by its owner")
