"""One item of a stream's queue, and the mark that says how far a stream has to be run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from hardpoint_sim.memory import Cell
    from hardpoint_sim.stream import SimStream


@dataclass(frozen=True, eq=False)
class Mark:
    """A place in a stream: passed when `stream` has run `position` items."""

    stream: SimStream
    position: int

    @property
    def passed(self) -> bool:
        return self.stream.completed >= self.position


@dataclass(frozen=True, eq=False)
class Work:
    """Something to run later.

    Attributes:
        name: operation, for messages.
        run: does it, on host tensors; gets `seed`.
        cells: memory that it touches; checked to be mapped when it runs.
        writes: host tensors that hold its result; poisoned if it fails.
        after: marks that have to be passed first.
        random: draws random numbers; `seed` is set when it is submitted, as where numbers are counter-based.
        submission: place in the order of all submissions of the engine.
        own: the simulator's own bookkeeping, such as poisoning freed memory: nobody waits for it, a graph omits it.
    """

    name: str
    run: Callable[[int], None]
    cells: tuple[Cell, ...] = ()
    writes: tuple[torch.Tensor, ...] = ()
    after: tuple[Mark, ...] = ()
    random: bool = False
    seed: int = 0
    submission: int = 0
    own: bool = False
