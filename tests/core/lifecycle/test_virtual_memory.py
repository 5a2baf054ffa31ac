"""`VirtualMemoryMap`: what it makes of a vendor's five calls, also of those that fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from hardpoint.errors import LifecycleError
from hardpoint.lifecycle import MemoryMap
from hardpoint.lifecycle.virtual_memory import VirtualBlock, VirtualMemoryMap


class Calls:
    """Virtual memory that is a dictionary of bytes; refuses what a driver refuses."""

    def __init__(self) -> None:
        self.bytes: dict[int, torch.Tensor | None] = {}
        self.live: list[VirtualBlock] = []
        self.full_at: int | None = None
        self.tag = ""

    @contextmanager
    def pool(self, tag: str, device_index: int) -> Iterator[None]:
        before, self.tag = self.tag, tag
        yield
        self.tag = before

    def allocate(self, value: int) -> VirtualBlock:
        block = VirtualBlock(0x1000 * (len(self.bytes) + 1), 4, 0, self.tag)
        self.bytes[block.address] = torch.full((4,), value, dtype=torch.uint8)
        self.live.append(block)
        return block

    def blocks(self) -> tuple[VirtualBlock, ...]:
        return tuple(self.live)

    def unmap(self, block: VirtualBlock) -> None:
        assert self.bytes[block.address] is not None, "unmapped twice"
        self.bytes[block.address] = None

    def map(self, block: VirtualBlock) -> None:
        assert self.bytes[block.address] is None, "mapped twice"
        if block.address == self.full_at:
            raise RuntimeError("out of memory")
        self.bytes[block.address] = torch.full((4,), 0xEE, dtype=torch.uint8)

    def read(self, block: VirtualBlock) -> torch.Tensor:
        contents = self.bytes[block.address]
        assert contents is not None, "read while unmapped"
        return contents.clone()

    def write(self, block: VirtualBlock, contents: torch.Tensor) -> None:
        assert self.bytes[block.address] is not None, "written while unmapped"
        self.bytes[block.address] = contents.clone()


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def memory(calls: Calls) -> VirtualMemoryMap:
    return VirtualMemoryMap(calls, "acme")


def two_tags(calls: Calls, memory: VirtualMemoryMap) -> tuple[VirtualBlock, VirtualBlock, VirtualBlock]:
    with memory.pool("weights"):
        first, second = calls.allocate(1), calls.allocate(2)
    with memory.pool("kv_cache"):
        third = calls.allocate(3)
    return first, second, third


def test_a_tag_sleeps_and_comes_back_as_it_was(calls: Calls, memory: VirtualMemoryMap) -> None:
    assert isinstance(memory, MemoryMap)
    first, second, third = two_tags(calls, memory)
    before = memory.digest(["weights"])
    memory.save(["weights"])
    for _ in range(2):  # twice is once
        memory.unmap(["weights"])
    assert (memory.mapped("weights"), memory.mapped("kv_cache")) == (False, True)
    assert [calls.bytes[block.address] is None for block in (first, second, third)] == [True, True, False]
    for _ in range(2):
        memory.map(["weights"])
    assert memory.digest(["weights"]) != before
    memory.restore(["weights"])
    assert memory.digest(["weights"]) == before
    assert memory.tags() == ("weights", "kv_cache")
    assert [(held.tag, held.nbytes, held.mapped, held.saved) for held in memory.holders()] == [
        ("weights", 4, True, True),
        ("weights", 4, True, True),
        ("kv_cache", 4, True, False),
    ]
    memory.discard(["weights"])
    assert not any(held.saved for held in memory.holders())


def test_a_map_that_fails_half_way_leaves_all_unmapped_and_can_be_repeated(
    calls: Calls, memory: VirtualMemoryMap
) -> None:
    _, second, _ = two_tags(calls, memory)
    memory.save(["weights"])
    memory.unmap(["weights"])
    calls.full_at = second.address
    with pytest.raises(RuntimeError, match="out of memory"):
        memory.map(["weights"])
    assert calls.bytes[0x1000] is None
    assert not memory.mapped("weights")
    calls.full_at = None
    memory.map(["weights"])
    memory.restore(["weights"])
    assert memory.mapped("weights")
    assert calls.read(second).tolist() == [2] * 4


def test_steps_out_of_order_are_refused_by_name(calls: Calls, memory: VirtualMemoryMap) -> None:
    two_tags(calls, memory)
    with pytest.raises(LifecycleError, match="tag 'weights' cannot be restored: 2 of its allocations were not saved"):
        memory.restore(["weights"])
    memory.unmap(["weights"])
    for verb, step in (("saved", memory.save), ("restored", memory.restore), ("digested", memory.digest)):
        with pytest.raises(LifecycleError, match=f"cannot be {verb}: allocation at 0x1000 is not mapped"):
            step(["weights"])
    with pytest.raises(LifecycleError, match="no memory was ever put under tag 'drafter'; known tags: 'weights', 'kv"):
        memory.save(["drafter"])


def test_memory_that_is_gone_is_forgotten(calls: Calls, memory: VirtualMemoryMap) -> None:
    first, _, _ = two_tags(calls, memory)
    memory.save(["weights"])
    memory.unmap(["weights"])
    calls.live.remove(first)
    memory.map(["weights"])
    memory.restore(["weights"])
    assert len(memory.holders()) == 2


def test_only_pooled_memory_can_be_adopted(memory: VirtualMemoryMap) -> None:
    with pytest.raises(LifecycleError, match="tensor 'w' on cpu cannot be put under tag 'weights': only memory that"):
        memory.adopt("weights", {"w": torch.zeros(2)})
    assert memory.tags() == ()
