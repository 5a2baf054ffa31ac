"""The tree that votes climb: a heap over positions 0 to n-1, so that nobody has to be told its place in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

ARITY = 4  # two hops fewer than a binary tree at 1,024 ranks, and four messages are cheap for one process


@dataclass(frozen=True)
class Tree:
    """`size` positions; the parent of position 0 is the trainer."""

    size: int
    arity: int = ARITY

    def parent(self, position: int) -> int | None:
        """None for position 0."""
        return (position - 1) // self.arity if position else None

    def children(self, position: int) -> range:
        """Positions right below."""
        first = position * self.arity + 1
        return range(min(first, self.size), min(first + self.arity, self.size))

    def subtree(self, position: int) -> Iterator[int]:
        """The position and all below it."""
        waiting = [position]
        while waiting:
            here = waiting.pop()
            yield here
            waiting.extend(self.children(here))

    @property
    def depth(self) -> int:
        """Hops from the trainer to the lowest position."""
        hops, position = 0, self.size - 1
        while position >= 0:
            hops, position = hops + 1, -1 if position == 0 else (position - 1) // self.arity
        return hops
