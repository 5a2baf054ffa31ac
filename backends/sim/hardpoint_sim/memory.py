"""Memory of one simulated device: a byte budget, addresses, and the cells that tensors stand on."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from hardpoint_sim.errors import OutOfMemory

if TYPE_CHECKING:
    from hardpoint_sim.engine import Engine
    from hardpoint_sim.stream import SimStream

ALIGNMENT = 512
DEVICE_SPAN = 1 << 44


def human(size: int) -> str:
    return f"{size} bytes" if size < 1 << 20 else f"{size / (1 << 20):.1f} MiB"


@dataclass
class Budget:
    """Bytes of one device. What is allocated and mapped counts; an unmapped cell keeps its address for nothing."""

    device: int
    total: int
    enforced: bool = True
    allocated: int = 0
    peak: int = 0

    def take(self, size: int, what: str) -> None:
        if self.enforced and self.allocated + size > self.total:
            raise OutOfMemory(
                f"sim:{self.device} is out of memory: {what} needs {human(size)}, {human(self.total - self.allocated)} "
                f"of {human(self.total)} are free; free tensors, sleep, or raise the budget (HARDPOINT_SIM_MEMORY)"
            )
        self.allocated += size
        self.peak = max(self.peak, self.allocated)

    def give(self, size: int) -> None:
        self.allocated -= size


@dataclass(eq=False)
class Cell:
    """Host memory behind one allocation. Queued work holds cells; only tensors hold the `Block` that keeps one alive.

    Attributes:
        flat: the bytes, as a one-dimensional host tensor of the allocation's dtype.
        address: what `data_ptr` answers; never used for another allocation, and the same after unmap and map.
        size: bytes charged to the budget.
        tag: what it sleeps with, "" for nothing.
        name: for people, "" if it has none.
        mapped: False between unmap and map.
        freed: no tensor stands on it any more.
        layout: how its elements are encoded if not as they are, see `hardpoint_sim.vendor.formats`.
    """

    flat: torch.Tensor
    device: int
    address: int
    size: int
    tag: str = ""
    name: str = ""
    mapped: bool = True
    freed: bool = False
    recorded: list[SimStream] = field(default_factory=list)
    layout: Any = None

    def describe(self) -> str:
        name = f"'{self.name}', " if self.name else ""
        tag = f", tag '{self.tag}'" if self.tag else ""
        return f"{name}{human(self.size)} at {self.address:#x} on sim:{self.device}{tag}"


class Block:
    """Ownership of a cell: when the last tensor on it is gone, the cell is buried in `graveyard`.

    The burial only appends to a deque, since Python may collect a block in the middle of anything, also under locks.
    A block without a graveyard is a loan: it owns nothing.
    """

    __slots__ = ("__weakref__", "cell", "engine", "graveyard", "stream")

    def __init__(
        self,
        cell: Cell,
        engine: Engine,
        stream: SimStream | None = None,
        graveyard: deque[tuple[Cell, SimStream]] | None = None,
    ) -> None:
        self.cell = cell
        self.engine = engine
        self.stream = stream
        self.graveyard = graveyard

    def __del__(self) -> None:
        if self.graveyard is not None and self.stream is not None:
            self.graveyard.append((self.cell, self.stream))
