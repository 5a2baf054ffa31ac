"""A driver that refuses what libcuda refuses or would let crash the process later; memory is host memory."""

from __future__ import annotations

import itertools

import torch

from hardpoint.lifecycle.virtual_memory import VirtualBlock
from hardpoint_cuda.driver import OutOfMemory


class Refused(AssertionError):
    """The wrong call, or the wrong moment."""


class StrictDriver:
    """See `hardpoint_cuda.driver.MemoryDriver`. Memory that is unmapped and released is lost, new memory is 0xEE."""

    UNIT = 4096

    def __init__(self, total: int = 64 * 4096) -> None:
        self.total = total
        self.reserved: dict[int, int] = {}
        self.handles: dict[int, torch.Tensor] = {}  # created and not released
        self.mapped: dict[int, int] = {}  # address -> handle
        self.allowed: set[int] = set()
        self.fail_at: str | None = None
        self.leaked = 0
        self._numbers = itertools.count(1)

    @property
    def free(self) -> int:
        return self.total - self.leaked - sum(contents.numel() for contents in self.handles.values())

    def granularity(self, device_index: int) -> int:
        return self.UNIT

    def reserve(self, nbytes: int) -> int:
        self._step("reserve", nbytes)
        address = 0x7F0000000000 + next(self._numbers) * (1 << 30)
        self.reserved[address] = nbytes
        return address

    def free_address(self, address: int, nbytes: int) -> None:
        self._range(address, nbytes)
        if address in self.mapped:
            raise Refused("an address is freed while memory is mapped there")
        del self.reserved[address]

    def create(self, nbytes: int, device_index: int) -> int:
        self._step("create", nbytes)
        if nbytes > self.free:
            raise OutOfMemory(f"cuMemCreate: {nbytes} bytes, {self.free} are free")
        handle = next(self._numbers)
        self.handles[handle] = torch.full((nbytes,), 0xEE, dtype=torch.uint8)
        return handle

    def release(self, handle: int) -> None:
        if handle not in self.handles:
            raise Refused("a handle is released twice")
        if handle in self.mapped.values():
            raise Refused("the handle of memory that is mapped is released: it would never be given back")
        del self.handles[handle]

    def map(self, address: int, nbytes: int, handle: int) -> None:
        self._step("map", nbytes)
        self._range(address, nbytes)
        if address in self.mapped:
            raise Refused("a range is mapped twice")
        if handle not in self.handles or self.handles[handle].numel() != nbytes:
            raise Refused("a range is mapped to a handle that is not live, or of another size")
        self.mapped[address] = handle

    def allow(self, address: int, nbytes: int, device_index: int) -> None:
        self._step("allow", nbytes)
        if address not in self.mapped:
            raise Refused("access is set where nothing is mapped")
        self.allowed.add(address)

    def unmap(self, address: int, nbytes: int) -> None:
        self._range(address, nbytes)
        if address not in self.mapped:
            raise Refused("a range is unmapped twice")
        del self.mapped[address]
        self.allowed.discard(address)

    def contents(self, block: VirtualBlock) -> torch.Tensor:
        """What the device would read; Refused where it would fault."""
        if block.address not in self.mapped or block.address not in self.allowed:
            raise Refused(f"unmapped memory at {block.address:#x} is accessed")
        return self.handles[self.mapped[block.address]]

    def _range(self, address: int, nbytes: int) -> None:
        if self.reserved.get(address) != nbytes:
            raise Refused(f"{nbytes} bytes at {address:#x} are not what was reserved")

    def _step(self, name: str, nbytes: int) -> None:
        if nbytes <= 0 or nbytes % self.UNIT:
            raise Refused(f"{name} of {nbytes} bytes, which is no multiple of {self.UNIT}")
        if self.fail_at == name:
            raise OutOfMemory(f"{name} fails here")
