"""Faults in who a rank is and how calls are counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hardpoint.backend import Backend
from hardpoint.conformance.mutants import _communicator as change
from hardpoint.conformance.mutants.communicator._plant import plant


def _counting(counts: Callable[[str, int], int]) -> Callable[[Backend], Backend]:
    """`sequence` after each call is ``counts(name, sequence before)``."""

    def wrap(backend: Backend, base: Any, rendezvous: Any) -> Any:
        counted = [0]

        def step(name: str, call: Any, *args: Any, **options: Any) -> Any:
            result = call(*args, **options)
            counted[0] = counts(name, counted[0])
            return result

        return change.answering(change.around(base, step), sequence=lambda: counted[0])

    return change.opened(wrap)


rank_reversed = plant(
    "rank-is-reversed",
    "knows-its-place",
    "Ranks are counted from the other end.",
    change.opened(lambda _, base, rendezvous: change.answering(base, rank=lambda: base.world_size - 1 - base.rank)),
)
sequence_stands_still = plant(
    "sequence-stands-still",
    "knows-its-place",
    "`sequence` is always 0.",
    change.opened(lambda _, base, rendezvous: change.answering(base, sequence=lambda: 0)),
)
sequence_skips_votes = plant(
    "sequence-skips-barriers-and-votes",
    "knows-its-place",
    "Only collectives that move data are counted.",
    _counting(lambda name, count: count + (name in change.MOVING)),
)
sequence_restarts = plant(
    "sequence-restarts-at-a-barrier",
    "knows-its-place",
    "`sequence` begins again at every barrier.",
    _counting(lambda name, count: 0 if name == "barrier" else count + 1),
)
sequence_counts_ragged_twice = plant(
    "sequence-counts-ragged-twice",
    "knows-its-place",
    "A ragged collective, made of two native ones, counts as two.",
    _counting(lambda name, count: count + (2 if "ragged" in name else 1)),
)
