"""Laws of `AllToAll`, which a communicator may offer beyond `Communicator`: values, counts that misfit, deadlines."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st

from hardpoint.conformance.claims import Claim, extra
from hardpoint.conformance.context import LawContext
from hardpoint.conformance.law import law
from hardpoint.conformance.laws.communicator import MOVED, OTHERWISE, SLACK, WORLDS, pattern
from hardpoint.errors import CollectiveMismatch, CommunicatorError, DeadlineExceeded

ALL_TO_ALL = extra("all_to_all")
COMPARED = Claim(
    "extra all_to_all with extra compares_calls",
    lambda capabilities: {"all_to_all", "compares_calls"} <= set(capabilities.extras),
)


def _parts(table: Sequence[Sequence[int]], rank: int, columns: int, dtype: str) -> list[torch.Tensor]:
    """What `rank` sends to each rank: ``table[rank][peer]`` rows each, bits that no other part of a rank has."""
    rows = pattern(sum(table[rank]), columns, rank, dtype)
    return list(torch.split(rows, list(table[rank])))


@law(part="all_to_all", id="all_to_all.rows-go-where-they-are-sent", claim=ALL_TO_ALL, ranks=WORLDS, deadline=90)
def rows_go_where_they_are_sent(context: LawContext) -> None:
    """`all_to_all` gives each rank the rows sent to it, in rank order, for any counts and dtype; the input stays."""
    group: Any = context.communicator()
    world = context.world_size

    def check(table: list[list[int]], columns: int, dtype: str) -> None:
        sent, received = table[context.rank], [row[context.rank] for row in table]
        mine = pattern(sum(sent), columns, context.rank, dtype)
        tensor = context.to_device(mine)
        output = context.to_device(pattern(sum(received), columns, 9, dtype))
        group.all_to_all(output, tensor, sent, received)
        expected = torch.cat([_parts(table, peer, columns, dtype)[context.rank] for peer in range(world)])
        context.equal(output, expected, f"all_to_all of {dtype}, rows by sender {received}")
        context.equal(tensor, mine, f"the input of all_to_all of {dtype}")

    uneven = [[(3 * rank + peer) % 4 for peer in range(world)] for rank in range(world)]
    for dtype in MOVED:
        check(uneven, 3, dtype)
    check([[2] * world for _ in range(world)], 2, "float32")
    check([[0] * world for _ in range(world)], 2, "float32")
    check([[5 if peer == 0 else 0 for peer in range(world)] for _ in range(world)], 1, "float32")
    context.examples(
        check,
        count=8,
        table=st.lists(st.lists(st.integers(0, 5), min_size=world, max_size=world), min_size=world, max_size=world),
        columns=st.integers(1, 4),
        dtype=st.sampled_from(MOVED),
    )


@law(part="all_to_all", id="all_to_all.follows-the-stream", claim=ALL_TO_ALL, ranks=2, deadline=40)
def follows_the_stream(context: LawContext) -> None:
    """It reads what the caller's current stream has computed, and work after it on that stream sees the rows."""
    group: Any = context.communicator()
    for step in range(4):
        tensor = context.full(4, value=float(step))
        tensor.add_(context.rank + 1.0)
        output = context.full(4, value=-1.0)
        group.all_to_all(output, tensor, [2, 2], [2, 2])
        output.mul_(2.0)
        context.equal(output, torch.tensor([step + 1.0] * 2 + [step + 2.0] * 2) * 2, f"all_to_all in step {step}")


@law(part="all_to_all", id="all_to_all.counts-fit-the-tensors", claim=ALL_TO_ALL, ranks=2, deadline=40)
def counts_fit_the_tensors(context: LawContext) -> None:
    """Counts that are negative, too few, or not the rows of the tensor are refused at once, and the group goes on."""
    group: Any = context.communicator(deadline=OTHERWISE)
    tensor, output = context.full(4, value=1.0), context.full(4, value=0.0)
    for sent, received in (([2, 1], [2, 2]), ([2, 2], [2, 3]), ([4], [2, 2]), ([5, -1], [2, 2])):
        with context.refuses(f"all_to_all of 4 rows by {sent} for 4 rows by {received}", CommunicatorError):
            group.all_to_all(output, tensor, sent, received)
    group.all_to_all(output, tensor, [2, 2], [2, 2])
    context.equal(output, torch.ones(4), "all_to_all after refusals")


@law(part="all_to_all", id="all_to_all.ranks-that-expect-other-rows-are-told", claim=COMPARED, ranks=2, deadline=40)
def ranks_that_expect_other_rows_are_told(context: LawContext) -> None:
    """Where calls are compared, a rank that expects other rows than it is sent is a CollectiveMismatch on all ranks."""
    group: Any = context.communicator("misfit", deadline=OTHERWISE)
    sent = [2, 2]
    received = [2, 2] if context.rank == 0 else [3, 2]
    output = context.full(sum(received), value=7.0)
    with context.refuses("all_to_all in which rank 0 sends 2 rows and rank 1 expects 3", CollectiveMismatch):
        group.all_to_all(output, context.full(4, value=1.0), sent, received)
    context.equal(output, torch.full((sum(received),), 7.0), "the output of a refused all_to_all")


@law(part="all_to_all", id="all_to_all.deadline-is-obeyed", claim=ALL_TO_ALL, ranks=2, deadline=30, patient=True)
def deadline_is_obeyed(context: LawContext) -> None:
    """Without the other rank it raises DeadlineExceeded within a second of its deadline, and names that rank."""
    group: Any = context.communicator("alone", deadline=OTHERWISE)
    output, tensor = context.full(4, value=0.0), context.full(4, value=1.0)
    group.all_to_all(output, tensor, [2, 2], [2, 2])
    context.meet()
    if context.rank == 0:
        begin = time.monotonic()
        try:
            group.all_to_all(output, tensor, [2, 2], [2, 2], deadline=0.5)
            context.backend.device.synchronize(context.device_index)
            group.barrier(deadline=0.5)
        except DeadlineExceeded as error:
            took = time.monotonic() - begin
            context.check(took <= 0.5 + SLACK, f"a deadline of 0.5 s, the error came after {took:.1f} s")
            context.check(error.missing == (1,), f"rank 1 was absent, the error misses {error.missing}")
            context.check(error.op == "all_to_all", f"the collective was all_to_all, the error says {error.op!r}")
            context.check(re.search(r"\b1\b", str(error)), f"the message does not name rank 1: {error}")
        else:
            context.fail("rank 1 stayed away, but all_to_all with a deadline of 0.5 s raised nothing")
    context.meet()
