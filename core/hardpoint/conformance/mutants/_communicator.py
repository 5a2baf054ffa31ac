"""Change a communicator for a mutant: every collective at once, what it answers about itself, what its errors say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from hardpoint.backend import Backend
from hardpoint.conformance.mutants._proxy import Changed
from hardpoint.errors import DeadlineExceeded

MOVING = ("broadcast", "all_gather", "all_gather_ragged", "reduce_scatter", "reduce_scatter_ragged", "all_reduce")
COLLECTIVES = (*MOVING, "barrier")
EVERY = (*COLLECTIVES, "vote")

# ``around(name, call, *arguments, **options)`` instead of ``call(*arguments, **options)``.
Around = Callable[..., Any]


def around(base: Any, change: Around, names: Sequence[str] = EVERY) -> Changed:
    """`base` with the calls in `names` going through `change`."""
    return Changed(base, **{name: partial(change, name, getattr(base, name)) for name in names})


def answering(base: Any, **answers: Callable[[], Any]) -> Any:
    """`base` whose properties in `answers` are computed anew; its calls stay."""
    properties = {name: property(_answer(answer)) for name, answer in answers.items()}
    return type("Answering", (Changed,), properties)(base)


def _answer(answer: Callable[[], Any]) -> Callable[[Any], Any]:
    return lambda _: answer()


def wrapped(change: Around, names: Sequence[str] = EVERY) -> Callable[[Backend], Backend]:
    """What a mutant needs: a backend in, one whose communicators' calls in `names` go through `change` out."""
    return opened(lambda backend, base, rendezvous: around(base, change, names))


def opened(wrap: Callable[[Backend, Any, Any], Any]) -> Callable[[Backend], Backend]:
    """``wrap(backend, communicator, rendezvous)`` gives the communicator that the changed backend opens."""

    def mutate(backend: Backend) -> Backend:
        return replace(
            backend, communicator=lambda rendezvous: wrap(backend, backend.communicator(rendezvous), rendezvous)
        )

    return mutate


def retold(error: DeadlineExceeded, **changes: Any) -> DeadlineExceeded:
    """The same error that says something else."""
    facts: dict[str, Any] = {
        "op": error.op,
        "sequence": error.sequence,
        "missing": error.missing,
        "deadline": error.deadline,
    }
    message = changes.pop("message", str(error))
    return type(error)(message, **(facts | changes))


def rows(output: torch.Tensor, counts: Sequence[int]) -> list[torch.Tensor]:
    """`output` cut into the rows of each rank; views."""
    starts = [sum(counts[:rank]) for rank in range(len(counts))]
    return [output[start : start + count] for start, count in zip(starts, counts, strict=True)]


def equal_rows(output: torch.Tensor, ranks: int) -> list[torch.Tensor]:
    """`output` cut into as many equal pieces as there are ranks; views."""
    return rows(output, [output.shape[0] // ranks] * ranks)


def rearrange(output: torch.Tensor, pieces: Sequence[torch.Tensor]) -> None:
    """Write `pieces` (which may be views of `output`) one after another into it."""
    start = 0
    for piece in [piece.clone() for piece in pieces]:
        output[start : start + piece.shape[0]] = piece
        start += piece.shape[0]


def on_own_stream(
    *, waits_before: bool, waits_after: bool, names: Sequence[str] = MOVING
) -> Callable[[Backend], Backend]:
    """Collectives in `names` run on a stream of the communicator, which waits for the caller's, or is waited for."""

    def wrap(backend: Backend, base: Any, rendezvous: Any) -> Any:
        device = backend.device
        side = device.stream(rendezvous.device_index)

        def run(name: str, call: Any, *args: Any, **options: Any) -> None:
            here = device.current_stream(rendezvous.device_index)
            if waits_before:
                side.wait_stream(here)
            with device.use_stream(side):
                call(*args, **options)
            if waits_after:
                here.wait_stream(side)

        return around(base, run, names)

    return opened(wrap)
