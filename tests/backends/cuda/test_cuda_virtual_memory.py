"""`CudaVirtualMemory` over a driver that refuses every wrong order, and the structures that go to libcuda."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from hardpoint.device import HostDevice
from hardpoint.errors import DeviceError, LifecycleError
from hardpoint.lifecycle import Lifecycle, LifecycleParts, MemoryMap
from hardpoint.lifecycle.mover import PinnedMover
from hardpoint.lifecycle.virtual_memory import VirtualBlock, VirtualMemoryMap
from hardpoint.sync.stream import TorchBoxes
from hardpoint_cuda.driver import Access, CudaDriver, OutOfMemory, Properties
from hardpoint_cuda.virtual_memory import CudaVirtualMemory
from support.strict_cuda_driver import Refused, StrictDriver

PAGE = StrictDriver.UNIT


class OnHost(CudaVirtualMemory):
    """Its pools and views without a device."""

    def __init__(self, driver: StrictDriver) -> None:
        self.waited: list[int] = []
        super().__init__(driver, self.waited.append)
        self.strict = driver

    @contextmanager
    def pool(self, tag: str, device_index: int) -> Iterator[None]:
        self._tag.name = tag
        yield
        self._tag.name = ""

    def view(self, block: VirtualBlock) -> torch.Tensor:
        return self.strict.contents(block)


@pytest.fixture
def driver() -> StrictDriver:
    return StrictDriver()


@pytest.fixture
def memory(driver: StrictDriver) -> OnHost:
    return OnHost(driver)


@pytest.fixture
def held(memory: OnHost, driver: StrictDriver) -> VirtualMemoryMap:
    mover = PinnedMover(memory.view, TorchBoxes(), memory.waited.append, pin=False)
    held = VirtualMemoryMap(memory, "cuda", mover, lambda index: driver.free, residual=PAGE - 1)
    assert isinstance(held, MemoryMap)
    with held.pool("weights"):
        for size in (2 * PAGE, 100):
            memory.allocate(size, 0)
    with held.pool("kv_cache"):
        memory.allocate(3 * PAGE, 0)
    for number, block in enumerate(memory.blocks()):
        memory.view(block).copy_((torch.arange(block.nbytes) * (number + 3) % 251).to(torch.uint8))
    return held


def bytes_of(memory: OnHost) -> list[torch.Tensor]:
    return [memory.view(block).clone() for block in memory.blocks() if block.tag == "weights"]


def test_segments_are_whole_units_at_addresses_that_stay(memory: OnHost, held: VirtualMemoryMap) -> None:
    assert [(block.nbytes, block.tag) for block in memory.blocks()] == [
        (2 * PAGE, "weights"),
        (PAGE, "weights"),
        (3 * PAGE, "kv_cache"),
    ]


@pytest.mark.parametrize("keep", [False, True])
def test_ten_cycles_leave_every_byte_and_leak_nothing(
    memory: OnHost, held: VirtualMemoryMap, driver: StrictDriver, keep: bool
) -> None:
    lifecycle = Lifecycle(LifecycleParts(memory=held, device=HostDevice(), keep_copies=keep))
    before, free, blocks = bytes_of(memory), driver.free, memory.blocks()
    for _ in range(10):
        lifecycle.sleep()
        assert driver.free == driver.total
        assert not driver.mapped
        lifecycle.wake()
        assert driver.free == free
        assert memory.blocks() == blocks
        assert all(torch.equal(a, b) for a, b in zip(bytes_of(memory), before, strict=True))
    assert any(saved.saved for saved in held.holders()) == keep


def test_the_host_memory_of_a_kept_copy_is_used_again(memory: OnHost, held: VirtualMemoryMap) -> None:
    held.save(["weights"])
    first = {address: copy.data_ptr() for address, copy in held._saved.items()}
    for block in memory.blocks():
        memory.view(block).add_(1)
    held.save(["weights"])
    assert {address: copy.data_ptr() for address, copy in held._saved.items()} == first
    assert all(
        torch.equal(copy, memory.view(b)) for b in memory.blocks() if (copy := held._saved.get(b.address)) is not None
    )


def test_the_device_is_waited_for_before_a_copy_is_called_done(memory: OnHost, held: VirtualMemoryMap) -> None:
    held.save(["weights"])
    held.unmap(["weights"])
    held.map(["weights"])
    held.restore(["weights"])
    assert memory.waited == [0, 0]


def test_a_digest_is_that_of_the_sync(memory: OnHost, held: VirtualMemoryMap) -> None:
    from hardpoint.sync.digest import tensor_digest

    found = held.digest(["weights"])
    expected = [tensor_digest(contents).hex() for contents in bytes_of(memory)]
    assert list(found.values()) == expected


def test_a_wake_without_memory_is_rolled_back_and_works_later(
    memory: OnHost, held: VirtualMemoryMap, driver: StrictDriver
) -> None:
    lifecycle = Lifecycle(LifecycleParts(memory=held, device=HostDevice()))
    before = bytes_of(memory)
    lifecycle.sleep()
    driver.leaked = driver.total - 4 * PAGE  # another process took the rest
    with pytest.raises(
        LifecycleError, match=r"rank 0: wake #2 .* is ASLEEP: rank 0 objects: map: OutOfMemory: cuMemCr"
    ):
        lifecycle.wake()
    assert not driver.mapped
    assert not driver.handles
    driver.leaked = 0
    lifecycle.wake()
    assert all(torch.equal(a, b) for a, b in zip(bytes_of(memory), before, strict=True))


@pytest.mark.parametrize("step", ["create", "map", "allow"])
def test_an_allocation_that_fails_at_any_step_leaves_nothing_behind(
    memory: OnHost, driver: StrictDriver, step: str
) -> None:
    driver.fail_at = step
    with pytest.raises(OutOfMemory):
        memory.allocate(PAGE, 0)
    assert (driver.reserved, driver.handles, driver.mapped) == ({}, {}, {})
    assert memory._allocated(PAGE, 0, 0) is None  # torch's word for out of memory


def test_what_is_freed_awake_or_asleep_is_given_up_once(
    memory: OnHost, held: VirtualMemoryMap, driver: StrictDriver
) -> None:
    first, second, third = memory.blocks()
    memory.free(first.address)
    assert memory.waited == [0]
    held.save(["weights"])
    held.unmap(["weights"])
    memory.free(second.address)
    assert set(driver.reserved) == {third.address}
    held.map(["weights"])
    assert [block.address for block in memory.blocks()] == [third.address]


def test_memory_that_does_not_come_free_is_an_error_with_the_largest_holders(
    memory: OnHost, held: VirtualMemoryMap, driver: StrictDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A second mapping of the memory, as an exported handle makes one: it is released here, and stays.
    release = driver.release

    def kept(handle: int) -> None:
        driver.leaked += driver.handles[handle].numel()
        release(handle)

    monkeypatch.setattr(driver, "release", kept)
    largest = memory.blocks()[0]
    with pytest.raises(
        LifecycleError, match=rf"12288 are missing.*largest holders: weights/allocation at {largest.address:#x}"
    ):
        held.unmap(["weights"])


def test_wrong_orders_are_refused_before_the_driver_is_asked(memory: OnHost, held: VirtualMemoryMap) -> None:
    block = memory.blocks()[0]
    with pytest.raises(DeviceError, match="is mapped already"):
        memory.map(block)
    memory.unmap(block)
    with pytest.raises(DeviceError, match="is unmapped already"):
        memory.unmap(block)
    with pytest.raises(DeviceError, match="is read while it is unmapped"):
        CudaVirtualMemory.view(memory, block)


def test_the_strict_driver_refuses_what_a_driver_does_not_forgive(driver: StrictDriver) -> None:
    address, handle = driver.reserve(PAGE), driver.create(PAGE, 0)
    driver.map(address, PAGE, handle)
    for wrong in (
        lambda: driver.map(address, PAGE, handle),
        lambda: driver.release(handle),
        lambda: driver.free_address(address, PAGE),
        lambda: driver.contents(VirtualBlock(address, PAGE, 0, "")),
        lambda: driver.create(100, 0),
    ):
        with pytest.raises(Refused):
            wrong()
    driver.unmap(address, PAGE)
    with pytest.raises(Refused, match="twice"):
        driver.unmap(address, PAGE)


# -- libcuda -------------------------------------------------------------------------------------------------------


class Library:
    """Stands where libcuda stands; notes what it is called with."""

    def __init__(self, code: int = 0) -> None:
        self.code, self.calls = code, []  # type: ignore[var-annotated]

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.calls.append((name, arguments))
            if name == "cuGetErrorString":
                arguments[1]._obj.value = b"invalid argument"
            return 0 if name == "cuGetErrorString" else self.code

        return call


def test_structures_have_the_sizes_and_offsets_of_cuda_h() -> None:
    assert (ctypes.sizeof(Properties), ctypes.sizeof(Access)) == (32, 12)
    assert (Properties.location.offset, Properties.allocFlags.offset, Access.flags.offset) == (8, 24, 8)


def test_every_call_goes_to_its_function_with_64_bit_addresses_and_sizes() -> None:
    library = Library()
    real = CudaDriver(library)
    real.granularity(1)
    real.reserve(PAGE)
    real.create(PAGE, 1)
    real.map(1 << 40, PAGE, 7)
    real.allow(1 << 40, PAGE, 1)
    real.unmap(1 << 40, PAGE)
    real.release(7)
    real.free_address(1 << 40, PAGE)
    assert [name for name, _ in library.calls] == [
        "cuMemGetAllocationGranularity",
        "cuMemAddressReserve",
        "cuMemCreate",
        "cuMemMap",
        "cuMemSetAccess",
        "cuMemUnmap",
        "cuMemRelease",
        "cuMemAddressFree",
    ]
    assert [len(arguments) for _, arguments in library.calls] == [3, 5, 4, 5, 4, 2, 1, 2]
    assert library.calls[3][1][0].value == 1 << 40
    assert library.calls[4][1][2]._obj.location.id == 1


@pytest.mark.parametrize(("code", "error"), [(2, OutOfMemory), (1, DeviceError)])
def test_a_refusal_of_the_driver_is_a_sentence(code: int, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"cuMemCreate(: the device has no memory| failed with 1: invalid argument)"):
        CudaDriver(Library(code)).create(PAGE, 0)
