"""Sleep on CUDA inside vLLM: hardpoint's protocol over the memory of vLLM's `CuMemAllocator`. Not run on a device yet.

vLLM loads weights and allocates the KV cache inside that allocator's pools, so their addresses can be unmapped already.
Its own `sleep` and `wake_up` are not used: they know no vote, digest nothing, pin new host memory each time and leave
half of it done after an error. Taken from it are what it knows (`pointer_to_data`) and the calls into its extension.

Only ``weights`` and ``kv_cache`` sleep. What vLLM keeps under ``runtime`` and ``workspace`` stays: no level of a sleep
may lose it, and it is small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from hardpoint.backend import Backend
from hardpoint.errors import LifecycleError
from hardpoint.lifecycle.mover import PinnedMover
from hardpoint.lifecycle.virtual_memory import VirtualBlock, VirtualMemoryMap
from hardpoint_vllm.sleep.memory import TAGS, WEIGHTS

Handle = tuple[int, int, int, Any]  # device, size in bytes, address, physical handle


class StockVirtualMemory:
    """See `hardpoint.lifecycle.virtual_memory.VirtualMemory`.

    Args:
        allocator: vLLM's.
        unmap_and_release, create_and_map: of the module of the allocator; they raise RuntimeError.
    """

    def __init__(
        self, allocator: Any, unmap_and_release: Callable[[Handle], None], create_and_map: Callable[[Handle], None]
    ) -> None:
        self._allocator, self._unmap, self._map = allocator, unmap_and_release, create_and_map

    def pool(self, tag: str, device_index: int) -> AbstractContextManager[None]:
        found: AbstractContextManager[None] = self._allocator.use_memory_pool(tag=tag)
        return found

    def blocks(self) -> tuple[VirtualBlock, ...]:
        found = list(self._allocator.pointer_to_data.items())
        return tuple(
            VirtualBlock(at, data.handle[1], data.handle[0], data.tag) for at, data in found if data.tag in TAGS
        )

    def unmap(self, block: VirtualBlock) -> None:
        data = self._data(block, asleep=False)
        try:
            self._unmap(data.handle)
        finally:
            data.is_asleep = True  # as vLLM does: its trimming and its frees look at it

    def map(self, block: VirtualBlock) -> None:
        data = self._data(block, asleep=True)
        self._map(data.handle)
        data.is_asleep = False

    def read(self, block: VirtualBlock) -> torch.Tensor:
        return self.view(block).cpu()

    def write(self, block: VirtualBlock, contents: torch.Tensor) -> None:
        self.view(block).copy_(contents)

    def view(self, block: VirtualBlock) -> torch.Tensor:
        """uint8 ``[nbytes]`` over a block that is mapped."""
        self._data(block, asleep=False)
        return torch.as_tensor(_Pointer(block), device=torch.device("cuda", block.device_index))

    def _data(self, block: VirtualBlock, asleep: bool) -> Any:
        data = self._allocator.pointer_to_data[block.address]
        if data.is_asleep != asleep:
            found = "asleep" if data.is_asleep else "mapped"
            raise LifecycleError(
                f"the allocation at {block.address:#x} (tag '{block.tag}') is {found}, which hardpoint has not done: "
                "somebody called sleep or wake_up of vLLM's allocator beside it"
            )
        return data


class StockMemoryMap(VirtualMemoryMap):
    """Of one worker. A sleep that keeps no weights keeps the buffers, as vLLM does: no checkpoint brings them back."""

    def __init__(self, memory: StockVirtualMemory, worker: Any, *arguments: Any, **more: Any) -> None:
        super().__init__(memory, "cuda", *arguments, **more)
        self._worker = worker
        self._buffers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def unmap(self, tags: Sequence[str]) -> None:
        if WEIGHTS in tags and self.mapped(WEIGHTS) and not self._saves(WEIGHTS):
            names = getattr(self._worker.model_config, "sleep_preserve_parameter_names", None)
            if names:
                raise LifecycleError(
                    "a sleep of level 2 loses every parameter, and sleep_preserve_parameter_names asks to keep "
                    f"{names}: sleep at level 1, or take the option out"
                )
            self._buffers = [(buffer, buffer.cpu().clone()) for buffer in _buffers(self._worker)]
        super().unmap(tags)

    def map(self, tags: Sequence[str]) -> None:
        super().map(tags)
        if WEIGHTS in tags:
            for buffer, contents in self._buffers:
                buffer.copy_(contents)
            self._buffers = []

    def _saves(self, tag: str) -> bool:
        return all(held.saved for held in self.holders() if held.tag == tag)


def memory_map(worker: Any, backend: Backend) -> StockMemoryMap:
    """For a worker whose weights and caches lie in vLLM's allocator. LifecycleError if this vLLM has none."""
    from vllm.device_allocator import cumem

    if not cumem.cumem_available:
        raise LifecycleError(
            "sleep on CUDA needs vLLM's cumem extension, and this vLLM comes without it: install vLLM's CUDA wheel"
        )
    memory = StockVirtualMemory(cumem.CuMemAllocator.get_instance(), cumem.unmap_and_release, cumem.create_and_map)
    mover = PinnedMover(memory.view, backend.box_kernels, backend.device.synchronize)
    return StockMemoryMap(memory, worker, mover, lambda index: backend.device.memory(index).free)


def _buffers(worker: Any) -> list[torch.Tensor]:
    runner = worker.model_runner
    models = [runner.get_model(), getattr(getattr(runner, "drafter", None), "model", None)]
    found = [buffer for model in models if isinstance(model, torch.nn.Module) for buffer in model.buffers()]
    return [buffer for buffer in found if buffer.numel()]


class _Pointer:
    """What torch reads an address from."""

    def __init__(self, block: VirtualBlock) -> None:
        self.__cuda_array_interface__ = {
            "shape": (block.nbytes,),
            "typestr": "|u1",
            "data": (block.address, False),
            "version": 3,
        }
