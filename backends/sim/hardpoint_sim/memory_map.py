"""`SimMemoryMap`: memory under tags that can be unmapped and mapped again at the same addresses.

It trusts its caller as little as a real device does: nothing here waits for queued work, so whoever saves or unmaps
without synchronising saves old values, or lets queued work run into unmapped memory (`DeviceFault` at the next wait).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from hardpoint.errors import LifecycleError
from hardpoint.lifecycle.protocol import Holding
from hardpoint_sim.engine import Engine
from hardpoint_sim.memory import Cell
from hardpoint_sim.poison import poison
from hardpoint_sim.tensor import SimTensor


@dataclass(frozen=True)
class SimMemoryMap:
    """The `hardpoint.lifecycle.MemoryMap` of one engine; any tensor on its devices can be pooled or adopted."""

    engine: Engine
    _tags: dict[str, None] = field(init=False, repr=False, default_factory=dict)
    _saved: dict[int, torch.Tensor] = field(init=False, repr=False, default_factory=dict)

    @contextmanager
    def pool(self, tag: str, device_index: int = 0) -> Iterator[None]:
        self.engine.state(device_index)
        with self.engine.lock:
            self._tags[tag] = None
        before = self.engine.thread.pool
        self.engine.thread.pool = {**before, device_index: tag}
        try:
            yield
        finally:
            self.engine.thread.pool = before

    def adopt(self, tag: str, tensors: Mapping[str, torch.Tensor]) -> None:
        with self.engine.lock:
            cells: dict[str, Cell] = {}
            for name, tensor in tensors.items():
                if not isinstance(tensor, SimTensor) or tensor.engine is not self.engine:
                    raise LifecycleError(
                        f"tensor '{name}' cannot be put under tag '{tag}': it is on {tensor.device}, and only memory "
                        "of this simulator's devices can sleep"
                    )
                if tensor.cell.tag not in ("", tag):
                    raise LifecycleError(
                        f"tensor '{name}' cannot be put under tag '{tag}': its memory is under "
                        f"'{tensor.cell.tag}' already"
                    )
                cells[name] = tensor.cell
            self._tags[tag] = None
            for name, cell in cells.items():
                cell.tag = tag
                cell.name = cell.name or name

    def tags(self) -> tuple[str, ...]:
        return tuple(self._tags)

    def mapped(self, tag: str) -> bool:
        with self.engine.lock:
            return all(cell.mapped for cell in self._cells([tag]))

    def save(self, tags: Sequence[str]) -> None:
        with self.engine.lock:
            for cell in self._mapped_cells(tags, "saved"):
                self._saved[cell.address] = cell.flat.clone()

    def unmap(self, tags: Sequence[str]) -> None:
        with self.engine.lock:
            for cell in self._cells(tags):
                if cell.mapped:
                    cell.mapped = False
                    self.engine.state(cell.device).budget.give(cell.size)
                    if self.engine.rules.poison_on_unmap:
                        poison(cell.flat)

    def map(self, tags: Sequence[str]) -> None:
        """torch.OutOfMemoryError, with nothing mapped, if the memory is not there."""
        with self.engine.lock:
            taken: list[Cell] = []
            try:
                for cell in self._cells(tags):
                    if not cell.mapped:
                        what = f"mapping tag '{cell.tag}'"
                        self.engine.state(cell.device).budget.take(cell.size, what)
                        taken.append(cell)
            except torch.OutOfMemoryError:
                for cell in taken:
                    self.engine.state(cell.device).budget.give(cell.size)
                raise
            for cell in taken:
                cell.mapped = True

    def restore(self, tags: Sequence[str]) -> None:
        with self.engine.lock:
            cells = self._mapped_cells(tags, "restored")
            lost = [cell for cell in cells if cell.address not in self._saved]
            if lost:
                raise LifecycleError(
                    f"tag '{lost[0].tag}' cannot be restored: {len(lost)} of its allocations were not saved, the "
                    f"first is {lost[0].describe()}"
                )
            for cell in cells:
                cell.flat.copy_(self._saved[cell.address])

    def discard(self, tags: Sequence[str]) -> None:
        with self.engine.lock:
            for cell in self._cells(tags):
                self._saved.pop(cell.address, None)

    def digest(self, tags: Sequence[str]) -> dict[str, str]:
        with self.engine.lock:
            return {
                f"{cell.tag}/{_what(cell)}": hashlib.sha256(cell.flat.view(torch.uint8).numpy().tobytes()).hexdigest()
                for cell in self._mapped_cells(tags, "digested")
            }

    def holders(self) -> list[Holding]:
        with self.engine.lock:
            found = [
                Holding(
                    tag=cell.tag,
                    nbytes=cell.size,
                    device=f"sim:{cell.device}",
                    mapped=cell.mapped,
                    saved=cell.address in self._saved,
                    what=_what(cell),
                )
                for cell in self._cells(self.tags())
            ]
        return sorted(found, key=lambda holding: -holding.nbytes)

    def _cells(self, tags: Sequence[str]) -> list[Cell]:
        """Live allocations of the tags, by address. LifecycleError for a tag that nobody has pooled or adopted."""
        unknown = [tag for tag in tags if tag not in self._tags]
        if unknown:
            known = ", ".join(f"'{tag}'" for tag in self._tags) or "none"
            raise LifecycleError(f"no memory was ever put under tag '{unknown[0]}'; known tags: {known}")
        self.engine.heap.bury()
        live = [cell for index in range(self.engine.count) for cell in self.engine.state(index).cells.values()]
        for address in self._saved.keys() - {cell.address for cell in live}:
            del self._saved[address]
        return sorted((cell for cell in live if cell.tag in tags), key=lambda cell: cell.address)

    def _mapped_cells(self, tags: Sequence[str], verb: str) -> list[Cell]:
        cells = self._cells(tags)
        unmapped = next((cell for cell in cells if not cell.mapped), None)
        if unmapped is not None:
            raise LifecycleError(
                f"tag '{unmapped.tag}' cannot be {verb}: {unmapped.describe()} is not mapped; map it first"
            )
        return cells


def _what(cell: Cell) -> str:
    return f"{cell.name or 'allocation'} at {cell.address:#x}"
