"""`AscendVirtualMemory`: NPU memory that can be unmapped, by the calls of vllm-ascend's extension and of pyACL.

The extension (``vllm_ascend.vllm_ascend_C``, csrc/camem_allocator.cpp) reserves an address per allocation and puts
physical memory behind it; its Python side, `CaMemAllocator`, knows no votes, no digests and no single tags. It holds
one pair of callbacks per process, so this class and vllm-ascend's own sleep mode exclude each other in a process.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import acl
import torch
import torch_npu
import vllm_ascend.vllm_ascend_C

from hardpoint.errors import LifecycleError
from hardpoint.lifecycle.virtual_memory import VirtualBlock

Handle = tuple[int, int, int, int]  # device, aligned size in bytes, address, physical handle
_DEVICE_TO_HOST = 2
_HOST_TO_DEVICE = 1


class AscendVirtualMemory:
    """See `hardpoint.lifecycle.virtual_memory.VirtualMemory`."""

    def __init__(self) -> None:
        self._handles: dict[int, tuple[Handle, str]] = {}
        self._tag = threading.local()
        self._pools: dict[tuple[str, int], Any] = {}
        vllm_ascend.vllm_ascend_C.init_module(self._allocated, self._freed)
        found = find_spec("vllm_ascend.vllm_ascend_C")
        assert found is not None  # it was imported above
        self._allocator = torch_npu.npu.memory.NPUPluggableAllocator(found.origin, "my_malloc", "my_free")

    @contextmanager
    def pool(self, tag: str, device_index: int) -> Iterator[None]:
        before = getattr(self._tag, "name", "")
        self._tag.name = tag
        try:
            with torch_npu.npu.device(device_index):
                # Kept for good: memory of a pool that is dropped goes back in ways that the extension does not survive.
                pool = torch_npu.npu.memory.MemPool(self._allocator._allocator)
                self._pools[tag, len(self._pools)] = pool
                with torch_npu.npu.memory.use_mem_pool(pool):
                    yield
        finally:
            self._tag.name = before

    def blocks(self) -> tuple[VirtualBlock, ...]:
        return tuple(
            VirtualBlock(address, handle[1], handle[0], tag) for address, (handle, tag) in list(self._handles.items())
        )

    def unmap(self, block: VirtualBlock) -> None:
        device, size, address, physical = self._handles[block.address][0]
        vllm_ascend.vllm_ascend_C.python_unmap_and_release(device, size, address, physical)

    def map(self, block: VirtualBlock) -> None:
        device, size, address, physical = self._handles[block.address][0]
        vllm_ascend.vllm_ascend_C.python_create_and_map(device, size, address, physical)

    def read(self, block: VirtualBlock) -> torch.Tensor:
        contents = torch.empty(block.nbytes, dtype=torch.uint8)
        self._copy(contents.data_ptr(), block.address, block.nbytes, _DEVICE_TO_HOST, block)
        return contents

    def write(self, block: VirtualBlock, contents: torch.Tensor) -> None:
        self._copy(block.address, contents.data_ptr(), block.nbytes, _HOST_TO_DEVICE, block)

    def _copy(self, target: int, source: int, nbytes: int, kind: int, block: VirtualBlock) -> None:
        with torch_npu.npu.device(block.device_index):
            code = acl.rt.memcpy(target, nbytes, source, nbytes, kind)
        if code != 0:
            raise LifecycleError(
                f"aclrtMemcpy of {nbytes} bytes at {block.address:#x} on npu:{block.device_index} (tag '{block.tag}') "
                f"failed with {code}; the driver's log says more"
            )

    def _allocated(self, handle: Handle) -> None:
        self._handles[handle[2]] = (handle, getattr(self._tag, "name", ""))

    def _freed(self, address: int) -> Handle:
        return self._handles.pop(address)[0]
