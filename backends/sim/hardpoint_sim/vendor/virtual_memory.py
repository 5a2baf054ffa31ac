"""A vendor's virtual memory calls over the simulator's cells: unmapping poisons, and mapping may find no memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from hardpoint.errors import DeviceError
from hardpoint.lifecycle.virtual_memory import VirtualBlock
from hardpoint_sim.engine import Engine
from hardpoint_sim.memory import Cell
from hardpoint_sim.poison import poison


@dataclass(frozen=True)
class SimVirtualMemory:
    """The `hardpoint.lifecycle.virtual_memory.VirtualMemory` of one engine. As on a device, nothing waits for work."""

    engine: Engine

    @contextmanager
    def pool(self, tag: str, device_index: int) -> Iterator[None]:
        self.engine.state(device_index)
        before = self.engine.thread.pool
        self.engine.thread.pool = {**before, device_index: tag}
        try:
            yield
        finally:
            self.engine.thread.pool = before

    def blocks(self) -> tuple[VirtualBlock, ...]:
        with self.engine.lock:
            self.engine.heap.bury()
            live = [cell for index in range(self.engine.count) for cell in self.engine.state(index).cells.values()]
        return tuple(VirtualBlock(cell.address, cell.size, cell.device, cell.tag) for cell in live if cell.tag)

    def unmap(self, block: VirtualBlock) -> None:
        with self.engine.lock:
            cell = self._cell(block)
            if not cell.mapped:
                raise DeviceError(f"{cell.describe()} is unmapped twice")
            cell.mapped = False
            self.engine.state(cell.device).budget.give(cell.size)
            if self.engine.rules.poison_on_unmap:
                poison(cell.flat)

    def map(self, block: VirtualBlock) -> None:
        with self.engine.lock:
            cell = self._cell(block)
            if cell.mapped:
                raise DeviceError(f"{cell.describe()} is mapped twice")
            self.engine.state(cell.device).budget.take(cell.size, f"mapping tag '{cell.tag}'")
            cell.mapped = True

    def read(self, block: VirtualBlock) -> torch.Tensor:
        with self.engine.lock:
            cell = self._cell(block)
            self.engine.heap.refuse_unmapped(cell, "a copy to the host")
            return cell.flat.view(torch.uint8).clone()

    def write(self, block: VirtualBlock, contents: torch.Tensor) -> None:
        with self.engine.lock:
            cell = self._cell(block)
            self.engine.heap.refuse_unmapped(cell, "a copy from the host")
            cell.flat.view(torch.uint8).copy_(contents)

    def _cell(self, block: VirtualBlock) -> Cell:
        return self.engine.state(block.device_index).cells[block.address]
