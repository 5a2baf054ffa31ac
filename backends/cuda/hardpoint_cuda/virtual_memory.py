"""`CudaVirtualMemory`: memory of torch's pools that can be unmapped and keeps its address. Not run on a device yet.

torch asks a pool's allocator for segments (2 MiB and more), which are the blocks here; a tensor is one, or a part of
one. Inside vLLM the segments are vLLM's own: see `hardpoint_vllm.sleep.cumem`.
"""

from __future__ import annotations

import ctypes
import inspect
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from hardpoint.errors import DeviceError
from hardpoint.lifecycle.virtual_memory import VirtualBlock
from hardpoint_cuda.driver import MemoryDriver

_logger = logging.getLogger("hardpoint.cuda.sleep")
_ALLOCATE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p)
_FREE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p)


@dataclass
class _Segment:
    block: VirtualBlock
    handle: int | None  # None while it is unmapped


class CudaVirtualMemory:
    """See `hardpoint.lifecycle.virtual_memory.VirtualMemory`.

    Args:
        driver: the calls.
        synchronize: wait for everything on the device of this index; memory that torch frees may still be in use.
    """

    def __init__(self, driver: MemoryDriver, synchronize: Any) -> None:
        self._driver, self._synchronize = driver, synchronize
        self._segments: dict[int, _Segment] = {}
        self._tag = threading.local()
        self._lock = threading.RLock()
        self._pools: list[Any] = []
        # Kept as long as torch may call them.
        self._callbacks = (_ALLOCATE(self._allocated), _FREE(self._freed))
        self._allocator: Any = None

    @contextmanager
    def pool(self, tag: str, device_index: int) -> Iterator[None]:
        before = getattr(self._tag, "name", "")
        self._tag.name = tag
        try:
            with torch.cuda.device(device_index):
                pool = self._new_pool()
                self._pools.append(pool)  # kept for good: a pool that is dropped frees through callbacks at any time
                with torch.cuda.use_mem_pool(pool, device_index):
                    yield
        finally:
            self._tag.name = before

    def _new_pool(self) -> Any:
        if self._allocator is None:
            allocate, free = (ctypes.cast(callback, ctypes.c_void_p).value or 0 for callback in self._callbacks)
            self._allocator = torch._C._cuda_customAllocator(allocate, free)
        options = {"no_split": True} if "no_split" in inspect.signature(torch.cuda.MemPool).parameters else {}
        return torch.cuda.MemPool(self._allocator, **options)

    def blocks(self) -> tuple[VirtualBlock, ...]:
        with self._lock:
            return tuple(segment.block for segment in self._segments.values())

    def unmap(self, block: VirtualBlock) -> None:
        with self._lock:
            segment = self._segments[block.address]
            if segment.handle is None:
                raise DeviceError(f"segment at {block.address:#x} (tag '{block.tag}') is unmapped already")
            self._driver.unmap(block.address, block.nbytes)
            handle, segment.handle = segment.handle, None
            self._driver.release(handle)

    def map(self, block: VirtualBlock) -> None:
        with self._lock:
            segment = self._segments[block.address]
            if segment.handle is not None:
                raise DeviceError(f"segment at {block.address:#x} (tag '{block.tag}') is mapped already")
            segment.handle = self._mapped(block.address, block.nbytes, block.device_index)

    def read(self, block: VirtualBlock) -> torch.Tensor:
        return self.view(block).cpu()

    def write(self, block: VirtualBlock, contents: torch.Tensor) -> None:
        self.view(block).copy_(contents)

    def view(self, block: VirtualBlock) -> torch.Tensor:
        """uint8 ``[nbytes]`` over a block. DeviceError if it is not mapped: reading it would end the process."""
        with self._lock:
            if self._segments[block.address].handle is None:
                raise DeviceError(f"segment at {block.address:#x} (tag '{block.tag}') is read while it is unmapped")
        return device_bytes(block)

    # -- what torch calls ----------------------------------------------------------------------------------------

    def allocate(self, nbytes: int, device_index: int) -> int:
        """A segment of at least `nbytes` under the tag of this thread's pool; its address."""
        size = -(-nbytes // (unit := self._driver.granularity(device_index))) * unit
        address = self._driver.reserve(size)
        try:
            handle = self._mapped(address, size, device_index)
        except BaseException:
            self._driver.free_address(address, size)
            raise
        with self._lock:
            block = VirtualBlock(address, size, device_index, getattr(self._tag, "name", ""))
            self._segments[address] = _Segment(block, handle)
        return address

    def free(self, address: int) -> None:
        """Give a segment and its address up, mapped or asleep."""
        with self._lock:
            segment = self._segments.pop(address)
        block = segment.block
        self._synchronize(block.device_index)
        if segment.handle is not None:
            self._driver.unmap(address, block.nbytes)
            self._driver.release(segment.handle)
        self._driver.free_address(address, block.nbytes)

    def _mapped(self, address: int, nbytes: int, device_index: int) -> int:
        handle = self._driver.create(nbytes, device_index)
        try:
            self._driver.map(address, nbytes, handle)
        except BaseException:
            self._driver.release(handle)
            raise
        try:
            self._driver.allow(address, nbytes, device_index)
        except BaseException:
            self._driver.unmap(address, nbytes)
            self._driver.release(handle)
            raise
        return handle

    def _allocated(self, nbytes: int, device_index: int, _stream: int) -> int | None:
        try:
            return self.allocate(nbytes, device_index)
        except Exception:  # torch takes a null pointer for a lack of memory, and no exception at all
            _logger.exception("%d bytes in a pool on cuda:%d", nbytes, device_index)
            return None

    def _freed(self, address: int, _nbytes: int, _device_index: int, _stream: int) -> None:
        try:
            self.free(address)
        except Exception:  # nobody is there to hear it
            _logger.exception("segment at %#x could not be given back", address)


def device_bytes(block: VirtualBlock) -> torch.Tensor:
    """uint8 ``[nbytes]`` on ``cuda:<device_index>`` over the block's address; owns nothing."""

    return torch.as_tensor(_Pointer(block), device=torch.device("cuda", block.device_index))


class _Pointer:
    """What torch reads an address from."""

    def __init__(self, block: VirtualBlock) -> None:
        self.__cuda_array_interface__ = {
            "shape": (block.nbytes,),
            "typestr": "|u1",
            "data": (block.address, False),
            "version": 3,
        }
