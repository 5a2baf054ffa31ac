"""Laws of `Communicator`: values of every collective, deadlines and the ranks they name, votes, and what follows."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st

from hardpoint.conformance.claims import extra
from hardpoint.conformance.context import LawContext
from hardpoint.conformance.law import law
from hardpoint.conformance.laws._collectives import calls, collectives
from hardpoint.conformance.laws._work import keep_busy
from hardpoint.errors import CommunicatorError, DeadlineExceeded

WORLDS = (2, 4)
# Moving data needs no arithmetic: what the native library lacks travels as bytes.
MOVED = (
    *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
)
SLACK = 1.0
# A communicator that ignores a deadline waits for this one instead: long enough to tell, short enough to wait for.
OTHERWISE = 5.0


def pattern(rows: int, columns: int, rank: int, dtype: str) -> torch.Tensor:
    """Host rows ``[rows, columns]`` that no other rank has; every byte differs from its neighbours."""
    wanted = getattr(torch, dtype)
    if wanted == torch.bool:
        return (torch.arange(rows * columns).reshape(rows, columns) + rank) % (rank + 2) == 0
    size = rows * columns * wanted.itemsize
    # Below 0x70 in every byte: no NaN in any of the formats, so that a value can be compared as well as its bits.
    data = ((torch.arange(size) * 7 + rank * 31 + 1) % 0x70).to(torch.uint8)
    return data.view(wanted).reshape(rows, columns)


@law(part="communicator", id="communicator.knows-its-place", ranks=WORLDS, deadline=40)
def knows_its_place(context: LawContext) -> None:
    """Rank and world size are those of the rendezvous, and `sequence` counts the collectives, alike on every rank."""
    group = context.communicator()
    context.check(group.rank == context.rank, f"rank is {group.rank}, expected {context.rank}")
    context.check(group.world_size == context.world_size, f"world size is {group.world_size}")
    context.check(group.sequence == 0, f"sequence starts at {group.sequence}, expected 0")
    steps = calls(context) | {"vote": lambda group: group.vote(True, "counting")}
    for number, step in enumerate(steps.values(), start=1):
        step(group)
        found = context.gather(group.sequence)
        context.check(found == [number] * context.world_size, f"after {number} collectives the ranks count {found}")


@law(part="communicator", id="communicator.broadcast-carries-the-root", ranks=WORLDS, deadline=60)
def broadcast_carries_the_root(context: LawContext) -> None:
    """`broadcast` leaves the bits of rank `src` on every rank, for every root and dtype, native or carried as bytes."""
    group = context.communicator()
    for number, dtype in enumerate(MOVED):
        for src in range(context.world_size) if number == 0 else [number % context.world_size]:
            tensor = context.to_device(pattern(3, 5, context.rank, dtype))
            group.broadcast(tensor, src=src)
            context.equal(tensor, pattern(3, 5, src, dtype), f"broadcast of {dtype} from rank {src}")
    # What is sent in pieces has a first, a last and perhaps only one.
    for size in (1, 2, 4099, 300_001):
        tensor = context.to_device(pattern(size, 1, context.rank, "uint8"))
        group.broadcast(tensor, src=context.world_size - 1)
        context.equal(tensor, pattern(size, 1, context.world_size - 1, "uint8"), f"broadcast of {size} bytes")


@law(part="communicator", id="communicator.gather-is-in-rank-order", ranks=WORLDS, deadline=60)
def gather_is_in_rank_order(context: LawContext) -> None:
    """`all_gather` puts every rank's rows into the output in rank order, for every dtype."""
    group = context.communicator()
    for dtype in MOVED:
        output = context.to_device(pattern(3 * context.world_size, 2, 9, dtype))
        tensor = context.to_device(pattern(3, 2, context.rank, dtype))
        group.all_gather(output, tensor)
        expected = torch.cat([pattern(3, 2, rank, dtype) for rank in range(context.world_size)])
        context.equal(output, expected, f"all_gather of {dtype}")
        context.equal(tensor, pattern(3, 2, context.rank, dtype), f"the input of all_gather of {dtype}")
    # Rank order is not the order of arrival.
    time.sleep(0.05 * (context.world_size - 1 - context.rank))
    output = context.full(context.world_size, value=-1.0)
    group.all_gather(output, context.full(1, value=float(context.rank)))
    context.equal(output, torch.arange(float(context.world_size)), "all_gather of ranks that arrive in reverse order")


@law(part="communicator", id="communicator.ragged-gather-has-no-padding", ranks=WORLDS, deadline=90)
def ragged_gather_has_no_padding(context: LawContext) -> None:
    """`all_gather_ragged` gives exactly the rows of the ranks, in order, for any counts; a rank may have none."""
    group = context.communicator()

    def check(counts: list[int], columns: int, dtype: str) -> None:
        mine = pattern(counts[context.rank], columns, context.rank, dtype)
        output = context.to_device(pattern(sum(counts), columns, 9, dtype))
        tensor = context.to_device(mine)
        group.all_gather_ragged(output, tensor, counts)
        expected = torch.cat([pattern(count, columns, rank, dtype) for rank, count in enumerate(counts)])
        context.equal(output, expected, f"all_gather_ragged of {dtype} with counts {counts}")
        context.equal(tensor, mine, f"the input of all_gather_ragged with counts {counts}")

    world = context.world_size
    for counts in ([0] * (world - 1) + [3], [5] + [0] * (world - 1), [2] * world, list(range(world))):
        check(counts, 3, "float32")
    context.examples(
        check,
        count=12,
        counts=st.lists(st.integers(0, 6), min_size=world, max_size=world),
        columns=st.integers(1, 4),
        dtype=st.sampled_from(MOVED),
    )


# On small integers every one of these is exact in every dtype and in any order of the ranks.
_REDUCED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum": lambda parts: parts.sum(0),
    "avg": lambda parts: parts.sum(0) / parts.shape[0],
    "min": lambda parts: parts.amin(0),
    "max": lambda parts: parts.amax(0),
    "prod": lambda parts: parts.prod(0),
}


@law(part="communicator", id="communicator.all-reduce-adds-up", ranks=WORLDS, deadline=60)
def all_reduce_adds_up(context: LawContext) -> None:
    """`all_reduce` leaves the reduction over all ranks on every rank: integers exactly, floats within the tolerance."""
    group = context.communicator()
    world = context.world_size
    carried = context.backend.capabilities.communication_dtypes
    for name in ("int64", "int32", "float32", "float64", "bfloat16", "float16"):
        if name not in carried:
            continue
        dtype = getattr(torch, name)
        parts = [(torch.arange(12) % 5 + rank * 2 - 3).to(dtype) for rank in range(world)]
        tensor = context.to_device(parts[context.rank])
        group.all_reduce(tensor)
        context.equal(tensor, torch.stack(parts).to(torch.int64).sum(0).to(dtype), f"all_reduce of {name}")
    for op in sorted(context.backend.capabilities.reduce_ops & _REDUCED.keys()):
        stack = torch.stack([(torch.arange(6.0) % 3 - 1) * (rank + 2) for rank in range(world)])
        tensor = context.to_device(stack[context.rank])
        group.all_reduce(tensor, op=op)
        context.close(tensor, _REDUCED[op](stack), f"all_reduce with {op}")
    # Sums that a narrower accumulator cannot hold: the bits below it are all in play.
    for name, low in (("float32", 2**21), ("int32", 2**29), ("float64", 2**50), ("int64", 2**60)):
        if name in carried:
            dtype = getattr(torch, name)
            tensor = context.to_device((torch.arange(8) + low // world).to(dtype))
            group.all_reduce(tensor)
            context.equal(tensor, ((torch.arange(8) + low // world) * world).to(dtype), f"all_reduce of large {name}")
    values = [context.host_randn(100) for _ in range(world)]
    tensor = context.to_device(values[context.rank])
    group.all_reduce(tensor)
    context.close(tensor, torch.stack(values).sum(0), "all_reduce of random float32")


@law(part="communicator", id="communicator.reduce-scatter-keeps-own-rows", ranks=WORLDS, deadline=60)
def reduce_scatter_keeps_own_rows(context: LawContext) -> None:
    """`reduce_scatter` leaves rank r the reduction of rows ``[r*n, (r+1)*n)`` over all ranks, the input as it was."""
    group = context.communicator()
    world = context.world_size
    rows = slice(context.rank * 3, context.rank * 3 + 3)
    carried, ops = context.backend.capabilities.communication_dtypes, context.backend.capabilities.reduce_ops
    cases = [(name, "sum") for name in ("float32", "float64", "bfloat16", "int64") if name in carried]
    cases += [("float32", op) for op in ("min", "max") if op in ops]
    for name, op in cases:
        dtype = getattr(torch, name)
        parts = [(torch.arange(world * 3 * 2).reshape(world * 3, 2) % 11 - 4) * (rank + 1) for rank in range(world)]
        tensor = context.to_device(parts[context.rank].to(dtype))
        output = context.full(3, 2, value=-1.0, dtype=dtype)
        group.reduce_scatter(output, tensor, op=op)
        expected = _REDUCED[op](torch.stack(parts)).to(dtype)
        context.equal(output, expected[rows], f"reduce_scatter of {name} with {op} on rank {context.rank}")
        context.equal(tensor, parts[context.rank].to(dtype), f"the input of reduce_scatter of {name} with {op}")


@law(part="communicator", id="communicator.ragged-scatter-keeps-own-rows", ranks=WORLDS, deadline=90)
def ragged_scatter_keeps_own_rows(context: LawContext) -> None:
    """`reduce_scatter_ragged` leaves rank r its ``counts[r]`` rows of the sum, for any counts; a rank may keep none."""
    group = context.communicator()
    world = context.world_size

    def check(counts: list[int], columns: int) -> None:
        total = sum(counts)
        parts = [
            (torch.arange(total * columns).reshape(total, columns) + 100 * rank).to(torch.float32)
            for rank in range(world)
        ]
        output = context.full(counts[context.rank], columns, value=-1.0)
        tensor = context.to_device(parts[context.rank])
        group.reduce_scatter_ragged(output, tensor, counts)
        begin = sum(counts[: context.rank])
        expected = torch.stack(parts).sum(0)[begin : begin + counts[context.rank]]
        context.equal(output, expected, f"reduce_scatter_ragged with counts {counts} on rank {context.rank}")
        context.equal(tensor, parts[context.rank], f"the input of reduce_scatter_ragged with counts {counts}")

    for counts in ([0] * (world - 1) + [3], [4] + [0] * (world - 1), list(range(world))):
        check(counts, 2)
    context.examples(
        check,
        count=8,
        counts=st.lists(st.integers(0, 5), min_size=world, max_size=world),
        columns=st.integers(1, 3),
    )


@law(part="communicator", id="communicator.empty-tensors-take-part", ranks=2, deadline=40)
def empty_tensors_take_part(context: LawContext) -> None:
    """A tensor without elements is a collective like any other: it is counted, and nobody hangs."""
    group = context.communicator()
    nothing = context.empty(0, 3)
    group.broadcast(nothing, src=1)
    group.all_reduce(nothing)
    group.all_gather(context.empty(0, 3), nothing)
    group.all_gather_ragged(context.empty(0, 3), nothing, [0] * context.world_size)
    group.reduce_scatter(context.empty(0, 3), nothing)
    group.reduce_scatter_ragged(context.empty(0, 3), nothing, [0] * context.world_size)
    found = context.gather(group.sequence)
    context.check(found == [6] * context.world_size, f"after six empty collectives the ranks count {found}")
    value = context.full(2, value=float(context.rank))
    group.broadcast(value, src=1)
    context.equal(value, torch.full((2,), 1.0), "a broadcast after six empty collectives")


@law(part="communicator", id="communicator.barrier-waits-for-all", ranks=WORLDS, deadline=40, patient=True)
def barrier_waits_for_all(context: LawContext) -> None:
    """No rank leaves `barrier` before the last one has entered it."""
    group = context.communicator()
    store = context.store
    assert store is not None
    for late in range(context.world_size):
        if context.rank == late:
            time.sleep(0.3)
        store.set(f"entered/{late}/{context.rank}", "yes")
        group.barrier()
        absent = [r for r in range(context.world_size) if not store.check([f"entered/{late}/{r}"])]
        context.check(not absent, f"rank {context.rank} left the barrier before ranks {absent} had entered it")
        context.meet()


@law(part="communicator", id="communicator.follows-the-current-stream", ranks=2, deadline=60, patient=True)
def follows_the_current_stream(context: LawContext) -> None:
    """A collective runs on the caller's current stream: it reads what was queued before it, and is read after it."""
    device, group = context.backend.device, context.communicator()
    world = context.world_size
    for name, collective in collectives(context).items():
        stream = device.stream(context.device_index)
        tensor = context.full(4 * world, value=-100.0)
        device.synchronize(context.device_index)
        with device.use_stream(stream):
            keep_busy(context)
            tensor.fill_(float(context.rank + 1))
            result = collective.run(group, tensor) + 0.5
        stream.synchronize()
        wanted = torch.tensor(collective.expect([float(rank + 1) for rank in range(world)], context.rank)) + 0.5
        context.equal(result, wanted, f"{name} between two pieces of work on a stream that is not the default")


@law(
    part="communicator", id="communicator.runs-under-the-tensors-device", ranks=2, devices=2, deadline=40, patient=True
)
def runs_under_the_tensors_device(context: LawContext) -> None:
    """A collective runs on its tensor's device whichever is current, and leaves the caller's device as it was."""
    device, group = context.backend.device, context.communicator()
    world = context.world_size
    other = (context.device_index + 1) % device.count()
    for name, collective in collectives(context).items():
        tensor = context.full(4 * world, value=-100.0)
        device.synchronize(context.device_index)
        with device.use(context.device_index):
            keep_busy(context)
            tensor.fill_(float(context.rank + 1))
        with device.use(other):
            result = collective.run(group, tensor)
            found = device.current()
            context.check(found == other, f"device {other} was current, after {name} it is {found}")
            context.check(tensor.device.index == context.device_index, f"after {name} the tensor is on {tensor.device}")
        with device.use(context.device_index):
            result = result + 0.5
        wanted = torch.tensor(collective.expect([float(rank + 1) for rank in range(world)], context.rank)) + 0.5
        context.equal(result, wanted, f"{name} while device {other} is current and the tensor is on another")


@law(part="communicator", id="communicator.groups-do-not-mix", ranks=2, deadline=40)
def groups_do_not_mix(context: LawContext) -> None:
    """Two communicators of the same ranks are apart: each counts and carries its own."""
    first, second = context.communicator("first"), context.communicator("second")
    one, two = context.full(4, value=float(context.rank)), context.full(4, value=10.0 + context.rank)
    first.broadcast(one, src=0)
    second.all_reduce(two)
    first.all_reduce(one)
    context.equal(one, torch.zeros(4), "the first communicator")
    context.equal(two, torch.full((4,), 21.0), "the second communicator")
    counted = (first.sequence, second.sequence)
    context.check(counted == (2, 1), f"two and one collectives were issued, the communicators count {counted}")
    context.meet()
    first.close()
    second.all_reduce(two)
    context.equal(two, torch.full((4,), 42.0), "the second communicator after the first was closed")


def _absent(context: LawContext, op: str, call: Callable[..., Any], absent: tuple[int, ...], deadline: float) -> None:
    """`absent` stay away from one collective: the others must be told in time, by name."""
    group = context.communicator(f"without {op} of {len(absent)}", deadline=OTHERWISE)
    group.all_reduce(context.full(4, value=1.0))
    context.meet()
    if context.rank not in absent:
        begin = time.monotonic()
        try:
            call(group, deadline=deadline)
            # On a device the host may go on at once; then waiting and the next call have to tell.
            context.backend.device.synchronize(context.device_index)
            group.barrier(deadline=deadline)
        except DeadlineExceeded as error:
            took = time.monotonic() - begin
            context.check(took <= deadline + SLACK, f"{op} with a deadline of {deadline:g} s raised after {took:.1f} s")
            context.check(took >= deadline * 0.8, f"{op} with a deadline of {deadline:g} s gave up after {took:.2f} s")
            context.check(error.missing == absent, f"ranks {absent} were absent, {op} names {error.missing}")
            context.check(error.sequence == 1, f"it was collective number 1, {op} says number {error.sequence}")
            context.check(error.op == op, f"the collective was {op}, the error says {error.op!r}")
            for rank in absent:
                named = re.search(rf"\b{rank}\b", str(error))
                context.check(named, f"the message does not name rank {rank}: {error}")
        else:
            context.fail(f"ranks {absent} stayed away, but {op} with a deadline of {deadline:g} s raised nothing")
    context.meet()


@law(part="communicator", id="communicator.deadline-is-obeyed", ranks=WORLDS, deadline=40, patient=True)
def deadline_is_obeyed(context: LawContext) -> None:
    """A collective that misses its deadline raises within one second of it, naming op, number and the absent ranks."""
    table = calls(context)
    if context.world_size == 2:
        for op, call in table.items():
            _absent(context, op, call, (1,), 0.4)
        return
    _absent(context, "all_reduce", table["all_reduce"], (context.world_size - 1,), 0.9)
    _absent(context, "barrier", table["barrier"], (0, context.world_size - 1), 0.5)


@law(part="communicator", id="communicator.default-deadline-is-obeyed", ranks=2, deadline=30, patient=True)
def default_deadline_is_obeyed(context: LawContext) -> None:
    """A call without a deadline of its own has the one of the rendezvous."""
    group = context.communicator("short", deadline=1.0)
    context.meet()
    if context.rank == 0:
        begin = time.monotonic()
        with context.refuses("all_reduce without the other rank", DeadlineExceeded):
            group.all_reduce(context.full(2, value=1.0))
            group.barrier()
        took = time.monotonic() - begin
        context.check(took <= 1.0 + SLACK, f"the rendezvous allows 1 s, the call raised after {took:.1f} s")
        context.check(took >= 0.5, f"the rendezvous allows 1 s, the call gave up after {took:.2f} s")
    context.meet()


@law(part="communicator", id="communicator.dead-rank-is-noticed", ranks=2, deadline=30, patient=True)
def dead_rank_is_noticed(context: LawContext) -> None:
    """When a rank's process dies, the others get a CommunicatorError that names it, in time, and do not hang."""
    group = context.communicator()
    group.barrier()
    context.meet()
    if context.rank == 1:
        context.die()
    time.sleep(0.3)
    begin = time.monotonic()
    try:
        group.all_reduce(context.full(2, value=1.0), deadline=2.0)
        group.barrier(deadline=2.0)
    except CommunicatorError as error:
        missing = getattr(error, "missing", (1,))
        context.check(missing == (1,), f"rank 1 is dead, the error misses {missing}")
        context.check(
            re.search(r"\branks? \(?\[?1\b", str(error)), f"rank 1 is dead, the error does not say so: {error}"
        )
    else:
        context.fail("rank 1 is dead, but all_reduce and a barrier with a deadline of 2 s raised nothing")
    took = time.monotonic() - begin
    context.check(took <= 2.0 + SLACK, f"a deadline of 2 s, the error came after {took:.1f} s")


@law(part="communicator", id="communicator.broken-stays-broken", ranks=2, deadline=30, patient=True)
def broken_stays_broken(context: LawContext) -> None:
    """After a failed collective every later call is refused at once: nobody knows what is left on the wire."""
    group = context.communicator(deadline=OTHERWISE)
    later = calls(context) | {"vote": lambda group: group.vote(True, "after a failure")}
    for call in later.values():
        call(group)  # nothing that is loaded or made on first use is timed below
    context.meet()
    if context.rank == 0:
        with context.refuses("a barrier without the other rank", DeadlineExceeded):
            group.barrier(deadline=0.4)
        for name, call in later.items():
            begin = time.monotonic()
            with context.refuses(f"{name} after a failed collective", CommunicatorError):
                call(group)
            took = time.monotonic() - begin
            context.check(took < 1.0, f"{name} after a failed collective was refused only after {took:.1f} s")
    context.meet()


@law(part="communicator", id="communicator.closed-stays-closed", ranks=2, deadline=30)
def closed_stays_closed(context: LawContext) -> None:
    """`close` may be called twice; after it every call is refused with a CommunicatorError, at once."""
    group = context.communicator(deadline=OTHERWISE)
    later = calls(context) | {"vote": lambda group: group.vote(True, "after close")}
    for call in later.values():
        call(group)  # nothing that is loaded or made on first use is timed below
    context.meet()
    group.close()
    group.close()
    for name, call in later.items():
        begin = time.monotonic()
        with context.refuses(f"{name} after close", CommunicatorError):
            call(group)
        took = time.monotonic() - begin
        context.check(took < 1.0, f"{name} after close was refused only after {took:.1f} s")


@law(part="communicator", id="communicator.wrong-shapes-are-refused", ranks=2, deadline=30)
def wrong_shapes_are_refused(context: LawContext) -> None:
    """Shapes, counts and roots that cannot be right are refused before anything moves, and the group stays whole."""
    group = context.communicator()
    value = context.full(4, value=1.0)
    world = context.world_size
    with context.refuses("all_gather into an output that is too small", CommunicatorError):
        group.all_gather(context.full(4 * world - 1, value=0.0), value)
    with context.refuses("all_gather_ragged with one count too few", CommunicatorError):
        group.all_gather_ragged(context.full(4, value=0.0), value, [4] * (world - 1))
    with context.refuses("all_gather_ragged with counts that do not fit the tensor", CommunicatorError):
        group.all_gather_ragged(context.full(3 * world, value=0.0), value, [3] * world)
    with context.refuses("all_gather into another dtype", CommunicatorError):
        group.all_gather(context.full(4 * world, value=0.0, dtype=torch.int32), value)
    with context.refuses("reduce_scatter of rows that do not divide", CommunicatorError):
        group.reduce_scatter(context.full(2, value=0.0), context.full(2 * world + 1, value=0.0))
    with context.refuses("reduce_scatter_ragged with counts that do not fit the output", CommunicatorError):
        group.reduce_scatter_ragged(context.full(3, value=0.0), context.full(2 * world, value=0.0), [2] * world)
    with context.refuses("all_gather_ragged with a negative count", CommunicatorError):
        group.all_gather_ragged(context.full(4, value=0.0), value, [-4] + [4] * (world - 1))
    for src in (world, -1):
        with context.refuses(f"broadcast from rank {src}", CommunicatorError):
            group.broadcast(value, src=src)
    context.meet()
    group.all_reduce(value)
    context.equal(value, torch.full((4,), float(world)), "a sum after refused calls")


@law(part="communicator", id="communicator.strided-tensors-are-refused-or-right", ranks=2, deadline=30)
def strided_tensors_are_refused_or_right(context: LawContext) -> None:
    """A tensor that is not contiguous is refused with a CommunicatorError, or it gets the result like any other."""
    group = context.communicator()
    world, rank = context.world_size, context.rank

    def strided(rows: int, value: float) -> torch.Tensor:
        return context.full(2, rows, value=value).t()

    def attempt(name: str, call: Callable[[], None], result: torch.Tensor, expected: list[float]) -> None:
        try:
            call()
        except CommunicatorError:
            return
        context.equal(result, torch.tensor(expected)[:, None].expand(-1, 2), f"{name}, which was not refused,")

    each = [float(peer + 1) for peer in range(world)]
    mine, whole = strided(3, each[rank]), strided(3 * world, each[rank])
    attempt("broadcast of a transposed tensor", lambda: group.broadcast(mine, src=1), mine, [2.0] * 3)
    mine = strided(3, each[rank])
    attempt("all_reduce of a transposed tensor", lambda: group.all_reduce(mine), mine, [sum(each)] * 3)
    output, plain = strided(3 * world, 0.0), context.full(3, 2, value=each[rank])
    gathered = [value for value in each for _ in range(3)]
    attempt("all_gather into a transposed output", lambda: group.all_gather(output, plain), output, gathered)
    ragged = strided(2 * world + 1, 0.0)
    counts = [3] + [2] * (world - 1)
    attempt(
        "all_gather_ragged into a transposed output",
        lambda: group.all_gather_ragged(ragged, plain[: counts[rank]].contiguous(), counts),
        ragged,
        [value for value, count in zip(each, counts, strict=True) for _ in range(count)],
    )
    kept = strided(3, 0.0)
    attempt(
        "reduce_scatter into a transposed output",
        lambda: group.reduce_scatter(kept, whole.contiguous()),
        kept,
        [sum(each)] * 3,
    )


@law(
    part="communicator",
    id="communicator.different-calls-are-an-error",
    claim=extra("compares_calls"),
    ranks=2,
    deadline=40,
)
def different_calls_are_an_error(context: LawContext) -> None:
    """When ranks make different calls, every rank is told with a CommunicatorError in time, and none gets a result."""
    two, three = context.full(2, value=1.0), context.full(3, value=1.0)
    same = context.full(2, value=1, dtype=torch.int32)
    first = context.rank == 0
    pairs: dict[str, Callable[[Any], None]] = {
        "another op": lambda g: g.all_reduce(two, deadline=1.0) if first else g.broadcast(two, src=0, deadline=1.0),
        "another shape": lambda g: g.all_reduce(two if first else three, deadline=1.0),
        "another dtype": lambda g: g.broadcast(two if first else same, src=0, deadline=1.0),
        "another root": lambda g: g.broadcast(two, src=context.rank, deadline=1.0),
        "another reduction": lambda g: g.all_reduce(two, op="sum" if first else "max", deadline=1.0),
    }
    if "max" not in context.backend.capabilities.reduce_ops:
        pairs.pop("another reduction")
    for what, call in pairs.items():
        group = context.communicator(what, deadline=OTHERWISE)
        context.meet()
        begin = time.monotonic()
        with context.refuses(f"{what} than on the other rank", CommunicatorError):
            call(group)
            context.backend.device.synchronize(context.device_index)
            group.barrier(deadline=1.0)
        took = time.monotonic() - begin
        context.check(took <= 1.0 + SLACK, f"{what}: a deadline of 1 s, the error came after {took:.1f} s")
        context.meet()


@law(part="communicator", id="communicator.vote-needs-every-yes", ranks=WORLDS, deadline=40)
def vote_needs_every_yes(context: LawContext) -> None:
    """A vote is unanimous only if every rank says yes with the same digest; who objects is named, alike everywhere."""
    group = context.communicator()
    last = context.world_size - 1
    verdict = group.vote(True, "all agree", digest="abc")
    fine = verdict.unanimous and not verdict.objections and verdict.missing == ()
    context.check(fine, f"every rank said yes with one digest, the verdict is {verdict}")
    for dissenter in {0, last}:
        no = context.rank == dissenter
        verdict = group.vote(
            not no, "one objects", reason=f"rank {dissenter} has no memory" if no else "", digest="abc"
        )
        context.check(not verdict.unanimous, f"rank {dissenter} said no, yet the vote is unanimous")
        found = list(verdict.objections)
        context.check(found == [dissenter], f"rank {dissenter} alone objected, the verdict names {found}")
        said = verdict.objections[dissenter]
        context.check("no memory" in said, f"the objection should carry the reason, it says {said!r}")
        context.check(verdict.subject == "one objects", f"the verdict is about {verdict.subject!r}")
        context.check(len(set(map(repr, context.gather(verdict)))) == 1, "the ranks got different verdicts")
    odd = context.rank == last
    verdict = group.vote(True, "digests", digest="other" if odd else "abc")
    context.check(not verdict.unanimous, f"rank {last} brought another digest, yet the vote is unanimous")
    named = list(verdict.objections)
    context.check(bool(named), "no rank whose digest differs is named")
    # Of two ranks either may be the odd one.
    context.check(context.world_size == 2 or named == [last], f"rank {last} alone differs, the verdict names {named}")
    context.check(len(set(map(repr, context.gather(verdict)))) == 1, "the ranks got different verdicts on digests")
    value = context.full(2, value=1.0)
    group.all_reduce(value)
    context.equal(value, torch.full((2,), float(context.world_size)), "a sum after votes that failed")


@law(part="communicator", id="communicator.vote-names-who-is-absent", ranks=WORLDS, deadline=40, patient=True)
def vote_names_who_is_absent(context: LawContext) -> None:
    """A vote returns within a second of its deadline without an error, is not unanimous, and names who did not come."""
    group = context.communicator(deadline=OTHERWISE)
    last = context.world_size - 1
    context.meet()
    if context.rank != last:
        begin = time.monotonic()
        verdict = group.vote(True, "one is away", deadline=0.8)
        took = time.monotonic() - begin
        context.check(took <= 0.8 + SLACK, f"a vote with a deadline of 0.8 s returned after {took:.1f} s")
        context.check(not verdict.unanimous, f"rank {last} did not vote, yet the vote is unanimous")
        context.check(took >= 0.4, f"a vote with a deadline of 0.8 s did not wait for rank {last}: {took:.2f} s")
        context.check(verdict.missing == (last,), f"rank {last} did not vote, the verdict misses {verdict.missing}")
    context.meet()
    if context.rank == last:
        # Too late: what the others have been told stands.
        verdict = group.vote(True, "one is away", deadline=0.8)
        context.check(not verdict.unanimous, f"rank {last} voted after the decision, yet for it the vote is unanimous")
    context.check(len(set(map(repr, context.gather(verdict)))) == 1, "the ranks got different verdicts")
