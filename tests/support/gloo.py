"""Rank functions for communicator tests: they run in processes of a `RankPool`."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import torch

from hardpoint.communicator import GLOO_DTYPES, GLOO_REDUCE_OPS, Rendezvous, TorchCommunicator, Verdict
from hardpoint.errors import CommunicatorError

DEADLINE = 1.5


def open_gloo(store: Any, rank: int, world: int, deadline: float = 20.0, name: str = "test") -> TorchCommunicator:
    """A communicator over gloo, as the cpu backend makes it."""
    return TorchCommunicator(
        Rendezvous(store, rank, world, name, deadline),
        device_type="cpu",
        library="gloo",
        carried=GLOO_DTYPES,
        reduce_ops=GLOO_REDUCE_OPS,
    )


def call(communicator: TorchCommunicator, op: str, rows: int = 2, deadline: float | None = None) -> Any:
    """One call of `op` with plain arguments; returns what came out, or the verdict."""
    world, rank = communicator.world_size, communicator.rank
    counts = [rows + peer for peer in range(world)]
    mine = torch.full((rows, 3), float(rank))
    uneven = torch.full((counts[rank], 3), float(rank))
    calls: dict[str, Callable[[], Any]] = {
        "broadcast": lambda: communicator.broadcast(mine, src=0, deadline=deadline),
        "all_gather": lambda: communicator.all_gather(torch.empty(world * rows, 3), mine, deadline=deadline),
        "all_gather_ragged": lambda: communicator.all_gather_ragged(
            torch.empty(sum(counts), 3), uneven, counts, deadline=deadline
        ),
        "reduce_scatter": lambda: communicator.reduce_scatter(
            torch.empty(rows, 3), torch.ones(world * rows, 3), deadline=deadline
        ),
        "reduce_scatter_ragged": lambda: communicator.reduce_scatter_ragged(
            torch.empty(counts[rank], 3), torch.ones(sum(counts), 3), counts, deadline=deadline
        ),
        "all_reduce": lambda: communicator.all_reduce(mine, deadline=deadline),
        "barrier": lambda: communicator.barrier(deadline=deadline),
        "vote": lambda: communicator.vote(True, "step", deadline=deadline),
    }
    return calls[op]()


OPS = (
    "broadcast",
    "all_gather",
    "all_gather_ragged",
    "reduce_scatter",
    "reduce_scatter_ragged",
    "all_reduce",
    "barrier",
)


def faults(store: Any, rank: int, world: int, cases: list[tuple[str, str, int]]) -> list[Any]:
    """Per case (op, fault, bad rank): seconds and error that this rank got, and what the next call said.

    A kill ends the process, so it has to be the last case.
    """
    seen = []
    for number, (op, fault, bad) in enumerate(cases):
        communicator = open_gloo(store, rank, world, name=f"case {number}")
        communicator.barrier()
        if rank == bad and fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if rank == bad and fault == "hang":
            time.sleep(DEADLINE + 1.2)
            seen.append(None)
        elif rank == bad and fault == "raise":  # leaves without a word to the others
            communicator.close()
            seen.append(None)
        else:
            other = "all_reduce" if op == "broadcast" else "broadcast"
            began = time.monotonic()
            try:
                result = call(
                    communicator,
                    other if rank == bad and fault == "other op" else op,
                    rows=3 if rank == bad and fault == "other shape" else 2,
                    deadline=DEADLINE,
                )
                outcome: Any = result if isinstance(result, Verdict) else None
            except CommunicatorError as error:
                outcome = error
            seconds = time.monotonic() - began
            try:
                communicator.barrier()
                after = None
            except CommunicatorError as error:
                after = str(error)
            seen.append((seconds, outcome, after))
        communicator.close()
    return seen
