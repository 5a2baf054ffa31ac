"""Laws of `Communicator`: values of every collective, deadlines and the ranks they name, votes, and what follows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st

from hardpoint.conformance.context import LawContext
from hardpoint.conformance.law import law
from hardpoint.conformance.laws._work import keep_busy
from hardpoint.errors import CommunicatorError, DeadlineExceeded

WORLDS = (2, 4)
# Moving data needs no arithmetic: what the native library lacks travels as bytes.
MOVED = (
    *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
)
SLACK = 1.0


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
    value = context.full(4, value=1.0)
    steps: list[Callable[[], Any]] = [
        lambda: group.broadcast(value, src=0),
        lambda: group.all_reduce(value),
        lambda: group.barrier(),
        lambda: group.vote(True, "counting"),
    ]
    for number, step in enumerate(steps, start=1):
        step()
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


@law(part="communicator", id="communicator.ragged-gather-has-no-padding", ranks=WORLDS, deadline=90)
def ragged_gather_has_no_padding(context: LawContext) -> None:
    """`all_gather_ragged` gives exactly the rows of the ranks, in order, for any counts; a rank may have none."""
    group = context.communicator()

    def check(counts: list[int], columns: int, dtype: str) -> None:
        mine = pattern(counts[context.rank], columns, context.rank, dtype)
        output = context.to_device(pattern(sum(counts), columns, 9, dtype))
        group.all_gather_ragged(output, context.to_device(mine), counts)
        expected = torch.cat([pattern(count, columns, rank, dtype) for rank, count in enumerate(counts)])
        context.equal(output, expected, f"all_gather_ragged of {dtype} with counts {counts}")

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


@law(part="communicator", id="communicator.all-reduce-adds-up", ranks=WORLDS, deadline=60)
def all_reduce_adds_up(context: LawContext) -> None:
    """`all_reduce` leaves the sum over all ranks on every rank: integers exactly, floats within the tolerance."""
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
    values = [context.host_randn(100) for _ in range(world)]
    tensor = context.to_device(values[context.rank])
    group.all_reduce(tensor)
    context.close(tensor, torch.stack(values).sum(0), "all_reduce of random float32")


@law(part="communicator", id="communicator.reduce-scatter-keeps-own-rows", ranks=WORLDS, deadline=60)
def reduce_scatter_keeps_own_rows(context: LawContext) -> None:
    """`reduce_scatter` leaves rank r the sum over all ranks of rows ``[r*n, (r+1)*n)``, and the input as it was."""
    group = context.communicator()
    world = context.world_size
    parts = [
        torch.arange(world * 3 * 2, dtype=torch.float32).reshape(world * 3, 2) * (rank + 1) for rank in range(world)
    ]
    tensor = context.to_device(parts[context.rank])
    output = context.full(3, 2, value=-1.0)
    group.reduce_scatter(output, tensor)
    rows = slice(context.rank * 3, context.rank * 3 + 3)
    context.equal(output, torch.stack(parts).sum(0)[rows], f"reduce_scatter on rank {context.rank}")
    context.equal(tensor, parts[context.rank], "the input of reduce_scatter")


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
        group.reduce_scatter_ragged(output, context.to_device(parts[context.rank]), counts)
        begin = sum(counts[: context.rank])
        expected = torch.stack(parts).sum(0)[begin : begin + counts[context.rank]]
        context.equal(output, expected, f"reduce_scatter_ragged with counts {counts} on rank {context.rank}")

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
    value = context.full(2, value=float(context.rank))
    group.broadcast(value, src=1)
    context.equal(value, torch.full((2,), 1.0), "a broadcast after four empty collectives")


@law(part="communicator", id="communicator.barrier-waits-for-all", ranks=WORLDS, deadline=40)
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


@law(part="communicator", id="communicator.follows-the-current-stream", ranks=2, deadline=60)
def follows_the_current_stream(context: LawContext) -> None:
    """A collective runs on the caller's current stream: it reads what was queued before it, and is read after it."""
    device, group = context.backend.device, context.communicator()
    world = context.world_size
    ops: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[list[float]], list[float]]]] = {}

    def gathered(tensor: torch.Tensor) -> torch.Tensor:
        output = context.full(4 * world, value=0.0)
        group.all_gather(output, tensor)
        return output

    def ragged(tensor: torch.Tensor) -> torch.Tensor:
        output = context.full(4 + world - 1, value=0.0)
        counts = [4] + [1] * (world - 1)
        group.all_gather_ragged(output, tensor[: counts[context.rank]].contiguous(), counts)
        return output

    def scattered(tensor: torch.Tensor) -> torch.Tensor:
        output = context.full(4 // world, value=0.0)
        group.reduce_scatter(output, tensor)
        return output

    def broadcast(tensor: torch.Tensor) -> torch.Tensor:
        group.broadcast(tensor, src=1)
        return tensor

    def reduced(tensor: torch.Tensor) -> torch.Tensor:
        group.all_reduce(tensor)
        return tensor

    ops = {
        "broadcast": (broadcast, lambda v: [v[1]] * 4),
        "all_reduce": (reduced, lambda v: [sum(v)] * 4),
        "all_gather": (gathered, lambda v: [x for x in v for _ in range(4)]),
        "all_gather_ragged": (ragged, lambda v: [v[0]] * 4 + v[1:]),
        "reduce_scatter": (scattered, lambda v: [sum(v)] * (4 // world)),
    }
    for name, (run, expect) in ops.items():
        stream = device.stream(context.device_index)
        tensor = context.full(4, value=-100.0)
        device.synchronize(context.device_index)
        with device.use_stream(stream):
            keep_busy(context)
            tensor.fill_(float(context.rank + 1))
            result = run(tensor) + 0.5
        stream.synchronize()
        wanted = torch.tensor(expect([float(rank + 1) for rank in range(world)])) + 0.5
        context.equal(result, wanted, f"{name} between two pieces of work on a stream that is not the default")


@law(part="communicator", id="communicator.runs-under-the-tensors-device", ranks=2, devices=2, deadline=40)
def runs_under_the_tensors_device(context: LawContext) -> None:
    """A collective runs on its tensor's device whichever is current, and leaves the caller's device as it was."""
    device, group = context.backend.device, context.communicator()
    tensor = context.full(4, value=float(context.rank + 1))
    other = (context.device_index + 1) % device.count()
    with device.use(other):
        group.broadcast(tensor, src=1)
        group.all_reduce(tensor)
        found = device.current()
        context.check(found == other, f"device {other} was current, after two collectives it is {found}")
        context.check(tensor.device.index == context.device_index, f"the tensor is on {tensor.device}")
    context.equal(tensor, torch.full((4,), 2.0 * context.world_size), "a broadcast and a sum under another device")


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


def _absent(context: LawContext, name: str, call: Callable[[Any], None], op: str, deadline: float) -> None:
    """The last rank stays away from one collective: the others must be told in time, by name."""
    group = context.communicator(name)
    last = context.world_size - 1
    value = context.full(4, value=1.0)
    group.all_reduce(value)
    context.meet()
    if context.rank != last:
        begin = time.monotonic()
        try:
            call(group)
            # On a device the host may go on at once; then waiting and the next call have to tell.
            context.backend.device.synchronize(context.device_index)
            group.barrier(deadline=deadline)
        except DeadlineExceeded as error:
            took = time.monotonic() - begin
            context.check(took <= deadline + SLACK, f"{op} with a deadline of {deadline:g} s raised after {took:.1f} s")
            context.check(took >= deadline * 0.5, f"{op} with a deadline of {deadline:g} s gave up after {took:.2f} s")
            context.check(error.missing == (last,), f"rank {last} was absent, {op} names {error.missing}")
            context.check(error.sequence == 1, f"it was collective number 1, {op} says number {error.sequence}")
            context.check(error.op == op, f"the collective was {op}, the error says {error.op!r}")
            context.check(str(last) in str(error), f"the message does not name rank {last}: {error}")
        else:
            context.fail(f"rank {last} stayed away, but {op} with a deadline of {deadline:g} s raised nothing")
    context.meet()


@law(part="communicator", id="communicator.deadline-is-obeyed", ranks=WORLDS, deadline=40)
def deadline_is_obeyed(context: LawContext) -> None:
    """A collective that misses its deadline raises within one second of it, naming op, number and the absent rank."""
    value = context.full(4, value=1.0)
    gathered = context.full(4 * context.world_size, value=0.0)
    root = context.world_size - 1
    calls: dict[str, Callable[[Any], None]] = {
        "all_reduce": lambda group: group.all_reduce(value, deadline=0.6),
        "broadcast": lambda group: group.broadcast(value, src=root, deadline=0.6),
        "all_gather": lambda group: group.all_gather(gathered, value, deadline=0.6),
        "barrier": lambda group: group.barrier(deadline=0.6),
    }
    for op, call in calls.items():
        _absent(context, f"without {op}", call, op, 0.6)


@law(part="communicator", id="communicator.default-deadline-is-obeyed", ranks=2, deadline=30)
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
    context.meet()


@law(part="communicator", id="communicator.dead-rank-is-noticed", ranks=2, deadline=30)
def dead_rank_is_noticed(context: LawContext) -> None:
    """When a rank's process dies, the others get a CommunicatorError that names it, in time, and do not hang."""
    group = context.communicator()
    group.barrier()
    context.meet()
    if context.rank == 1:
        context.die()
    time.sleep(0.3)
    begin = time.monotonic()
    with context.refuses("all_reduce with a dead rank", CommunicatorError, naming=["1"]):
        group.all_reduce(context.full(2, value=1.0), deadline=2.0)
        group.barrier(deadline=2.0)
    took = time.monotonic() - begin
    context.check(took <= 2.0 + SLACK, f"a deadline of 2 s, the error came after {took:.1f} s")


@law(part="communicator", id="communicator.broken-stays-broken", ranks=2, deadline=30)
def broken_stays_broken(context: LawContext) -> None:
    """After a failed collective every later call is refused at once: nobody knows what is left on the wire."""
    group = context.communicator()
    value = context.full(2, value=1.0)
    context.meet()
    if context.rank == 0:
        with context.refuses("a barrier without the other rank", DeadlineExceeded):
            group.barrier(deadline=0.5)
        later: dict[str, Callable[[], Any]] = {
            "broadcast": lambda: group.broadcast(value, src=0),
            "all_reduce": lambda: group.all_reduce(value),
            "barrier": lambda: group.barrier(),
        }
        for name, call in later.items():
            begin = time.monotonic()
            with context.refuses(f"{name} after a failed collective", CommunicatorError):
                call()
            took = time.monotonic() - begin
            context.check(took < 1.0, f"{name} after a failed collective was refused only after {took:.1f} s")
    context.meet()


@law(part="communicator", id="communicator.closed-stays-closed", ranks=2, deadline=30)
def closed_stays_closed(context: LawContext) -> None:
    """`close` may be called twice; after it every call is refused with a CommunicatorError, at once."""
    group = context.communicator()
    group.barrier()
    context.meet()
    group.close()
    group.close()
    value = context.full(2, value=1.0)
    begin = time.monotonic()
    with context.refuses("broadcast after close", CommunicatorError):
        group.broadcast(value, src=0)
    with context.refuses("vote after close", CommunicatorError):
        group.vote(True, "after close")
    took = time.monotonic() - begin
    context.check(took < 1.0, f"calls after close were refused only after {took:.1f} s")


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
    with context.refuses(f"broadcast from rank {world}", CommunicatorError):
        group.broadcast(value, src=world)
    context.meet()
    group.all_reduce(value)
    context.equal(value, torch.full((4,), float(world)), "a sum after four refused calls")


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
    context.check(bool(verdict.objections), "the ranks whose digests differ are not named")
    value = context.full(2, value=1.0)
    group.all_reduce(value)
    context.equal(value, torch.full((2,), float(context.world_size)), "a sum after votes that failed")


@law(part="communicator", id="communicator.vote-names-who-is-absent", ranks=WORLDS, deadline=40)
def vote_names_who_is_absent(context: LawContext) -> None:
    """A vote returns within a second of its deadline without an error, is not unanimous, and names who did not come."""
    group = context.communicator()
    last = context.world_size - 1
    context.meet()
    if context.rank != last:
        begin = time.monotonic()
        verdict = group.vote(True, "one is away", deadline=0.8)
        took = time.monotonic() - begin
        context.check(took <= 0.8 + SLACK, f"a vote with a deadline of 0.8 s returned after {took:.1f} s")
        context.check(not verdict.unanimous, f"rank {last} did not vote, yet the vote is unanimous")
        context.check(verdict.missing == (last,), f"rank {last} did not vote, the verdict misses {verdict.missing}")
    context.meet()
