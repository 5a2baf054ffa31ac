"""`Heap`: allocation, and what happens to memory when its last tensor is gone."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

import torch

from hardpoint.errors import CaptureRefused
from hardpoint_sim.errors import UnmappedAccess
from hardpoint_sim.memory import ALIGNMENT, Block, Cell, human
from hardpoint_sim.poison import poison
from hardpoint_sim.stream import SimStream
from hardpoint_sim.work import Mark, Work

if TYPE_CHECKING:
    from hardpoint_sim.engine import Engine


class Heap:
    """The memory of all devices of one engine. Callers hold the engine's lock, but for `allocate`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._graveyard: deque[tuple[Cell, SimStream]] = deque()
        self._recorded: list[tuple[Cell, SimStream, tuple[Mark, ...]]] = []

    def allocate(self, index: int, shape: Iterable[int], stride: Iterable[int], dtype: torch.dtype, what: str) -> Block:
        """A poisoned allocation that can hold a tensor of this shape and stride; see `Block.cell` for its bytes."""
        engine = self._engine
        rules, state, stream = engine.rules, engine.state(index), engine.current_stream(index)
        elements = _extent(tuple(shape), tuple(stride))
        size = -(-elements * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        if stream.recording is not None and rules.capture_refuses_allocation and size:
            raise CaptureRefused(
                f"{what} allocates {human(size)} inside a graph capture on sim:{index}; a replay would write to memory "
                "that others own by then: allocate before the capture and write with out= or in place"
            )
        with engine.lock:
            self.bury()
            state.budget.take(size, what)
            flat = torch.empty(elements, dtype=dtype, device="cpu")
            if rules.poison_empty:
                poison(flat)
            else:
                flat.zero_()
            cell = Cell(flat, index, state.next_address, size, engine.thread.pool.get(index, ""))
            state.next_address += max(size, ALIGNMENT)
            state.cells[cell.address] = cell
        return Block(cell, engine, stream, self._graveyard)

    def bury(self) -> None:
        """Account for blocks whose last tensor is gone: free their bytes, and poison them in stream order.

        As in a caching allocator, the memory is at once free for the stream that it was allocated on. Another stream
        that still uses it has to be waited for, or to be named with `Tensor.record_stream`.
        """
        while self._graveyard:
            cell, stream = self._graveyard.popleft()
            cell.freed = True
            state = self._engine.state(cell.device)
            del state.cells[cell.address]
            if cell.mapped:
                state.budget.give(cell.size)
            others = tuple(other.mark() for other in cell.recorded if other is not stream)
            if self._engine.rules.poison_on_free:
                self._recorded.append((cell, stream, others))
        if self._recorded:
            waiting = []
            for cell, stream, others in self._recorded:
                if all(mark.passed for mark in others):
                    reuse = Work("reuse of freed memory", partial(_poison, cell), own=True)
                    self._engine.enqueue(stream, reuse)
                else:
                    waiting.append((cell, stream, others))
            self._recorded = waiting

    def refuse_unmapped(self, cell: Cell, what: str) -> None:
        if self._engine.rules.check_mapped and not cell.mapped:
            raise UnmappedAccess(
                f"{what} uses unmapped memory ({cell.describe()}): it was given back by sleep; map it, and write it, "
                "before anything reads it"
            )


def _poison(cell: Cell, _: int) -> None:
    poison(cell.flat)


def _extent(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Elements between the first and the last one of a strided tensor, both included."""
    if any(size == 0 for size in shape):
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
