"""`HostMemoryMap` gives pages back to the system, measured, and says who holds what it cannot."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import pytest
import torch

from hardpoint.device import HostDevice
from hardpoint.errors import LifecycleError
from hardpoint.lifecycle import HostMemoryMap, Lifecycle, LifecycleParts, pages

SIZE = 16 << 20
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="host memory is given back on Linux only")


def in_memory() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors() -> int:
    """Open files of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def held() -> tuple[HostMemoryMap, torch.Tensor]:
    memory, tensor = HostMemoryMap(), torch.arange(SIZE // 4, dtype=torch.float32)
    memory.adopt("weights", {"w13_weight": tensor})
    return memory, tensor


def test_the_process_shrinks_and_the_contents_come_back_to_the_same_address(
    held: tuple[HostMemoryMap, torch.Tensor],
) -> None:
    memory, tensor = held
    address, before = tensor.data_ptr(), in_memory()
    memory.save(["weights"])
    memory.unmap(["weights"])
    assert in_memory() < before - SIZE * 9 // 10
    assert pages.resident(tensor.untyped_storage()) == 0
    assert tensor[0].isnan()
    memory.map(["weights"])
    memory.restore(["weights"])
    assert tensor.data_ptr() == address
    assert torch.equal(tensor, torch.arange(SIZE // 4, dtype=torch.float32))


@pytest.mark.parametrize("keep", [False, True], ids=["copies dropped", "copies kept"])
def test_fifty_cycles_leak_nothing(held: tuple[HostMemoryMap, torch.Tensor], keep: bool) -> None:
    memory, tensor = held
    lifecycle = Lifecycle(LifecycleParts(memory=memory, device=HostDevice(), keep_copies=keep))
    asleep, awake, files = [], [], []
    for cycle in range(50):
        lifecycle.sleep()
        asleep.append(in_memory())
        lifecycle.wake()
        awake.append(in_memory())
        files.append(descriptors())
        tensor[cycle] = -1.0  # so that a kept copy has to be written again
    # Two cycles to warm up; then 50 of them may grow by less than one would, if it left an eighth of its bytes behind.
    assert max(asleep[2:]) - min(asleep[2:]) < SIZE // 8
    assert max(awake[2:]) - min(awake[2:]) < SIZE // 8
    assert awake[2] - asleep[2] > SIZE * 9 // 10
    assert len(set(files[1:])) == 1
    assert torch.equal(tensor[50:], torch.arange(SIZE // 4, dtype=torch.float32)[50:])


def test_pages_that_stay_are_named(held: tuple[HostMemoryMap, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    memory, tensor = held
    # A system that does not take the pages back: madvise answers yes and does nothing.
    monkeypatch.setattr(pages, "_MADV_DONTNEED", 0)
    with pytest.raises(LifecycleError, match=r"bytes are still in memory .* weights/w13_weight #0"):
        memory.unmap(["weights"])
    assert tensor.numel() * 4 == SIZE
    memory.map(["weights"])


def test_cleared_memory_reads_as_zero_and_stays_with_the_system(held: tuple[HostMemoryMap, torch.Tensor]) -> None:
    memory, tensor = held
    memory.unmap(["weights"])
    memory.map(["weights"])
    assert tensor[0].isnan()
    memory.clear(["weights"])
    assert pages.resident(tensor.untyped_storage()) < SIZE // 2
    # Element by element over a view of bytes: a sum would be allowed to hide a NaN by luck, this is not.
    raw = (ctypes.c_ubyte * SIZE).from_address(tensor.data_ptr())
    assert not any(memoryview(raw).cast("B")[:: pages.PAGE // 2])
    assert not tensor.isnan().any()


def test_clearing_what_has_no_memory_is_refused(held: tuple[HostMemoryMap, torch.Tensor]) -> None:
    memory, _ = held
    memory.unmap(["weights"])
    with pytest.raises(LifecycleError, match="clear: there is no memory behind weights/w13_weight"):
        memory.clear(["weights"])
