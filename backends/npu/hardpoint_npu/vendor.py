"""`TorchNpu`: the runtime over torch_npu. The only module of this backend that imports it; loaded when it is chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import torch_npu

from hardpoint.communicator import Communicator, Rendezvous, TorchCommunicator
from hardpoint.device import Device, Event, MemoryInfo, Stream
from hardpoint.launcher import KernelLauncher, LauncherByKind, PythonLauncher
from hardpoint.lifecycle.virtual_memory import VirtualMemory
from hardpoint_npu.facts import GRAPH_STREAMS


class TorchNpu:
    """torch_npu itself."""

    def __init__(self) -> None:
        self._streams: dict[tuple[int, int, int], Stream] = {}

    @property
    def device_type(self) -> str:
        return "npu"

    def device_count(self) -> int:
        return int(torch_npu.npu.device_count())

    def current_device(self) -> int:
        return int(torch_npu.npu.current_device())

    def set_device(self, index: int) -> None:
        torch_npu.npu.set_device(index)

    def synchronize(self, index: int) -> None:
        torch_npu.npu.synchronize(index)

    def new_stream(self, index: int) -> Stream:
        made: Stream = torch_npu.npu.Stream(device=index)
        return made

    def current_stream(self, index: int) -> Stream:
        # Making the object is what `torch_npu.npu.current_stream` costs. vllm-ascend (utils.py:480-494) keeps the last
        # one for that, and then does not see who else sets a stream; kept by what names a stream, it is never another.
        found = tuple(torch_npu._C._npu_getCurrentStream(index))
        kept = self._streams.get(found)
        if kept is None:
            kept = self._streams[found] = torch_npu.npu.current_stream(index)
        return kept

    def set_stream(self, stream: Any) -> None:
        torch_npu.npu.set_stream(stream)

    def new_event(self, index: int, timing: bool) -> Event:
        made: Event = torch_npu.npu.Event(enable_timing=timing)
        return made

    def memory(self, index: int) -> MemoryInfo:
        free, total = torch_npu.npu.mem_get_info(index)
        allocated, reserved = torch_npu.npu.memory_allocated(index), torch_npu.npu.memory_reserved(index)
        return MemoryInfo(int(free), int(total), int(allocated), int(reserved))

    def empty_cache(self) -> None:
        torch_npu.npu.empty_cache()

    def uuid(self, index: int) -> str | None:
        found = torch_npu.npu.get_device_properties(index).uuid
        return str(found) if found else None

    def native_communicator(
        self, rendezvous: Rendezvous, carried: frozenset[str], reduce_ops: frozenset[str]
    ) -> Communicator:
        return TorchCommunicator(rendezvous, device_type="npu", library="hccl", carried=carried, reduce_ops=reduce_ops)

    def launcher(self, device: Device, capturing: Callable[[], bool]) -> KernelLauncher:
        from hardpoint.launcher.triton import TritonLauncher

        return LauncherByKind(TritonLauncher("npu"), PythonLauncher(device, capturing))

    def fill_kernel(self) -> Any:
        from hardpoint_npu.fill_kernel import fill

        return fill

    def core_count(self, index: int) -> int:
        return int(torch_npu.npu.get_device_properties(index).vector_core_num)

    def graph_refusal(self) -> str | None:
        return None

    def graph_stream_budget(self) -> int:
        return GRAPH_STREAMS

    def new_graph(self) -> Any:
        return torch_npu.npu.NPUGraph()

    @contextmanager
    def capture(self, graph: Any, index: int) -> Iterator[None]:
        with torch_npu.npu.device(index):
            stream = torch_npu.npu.Stream(device=index)
            with torch_npu.npu.graph(graph, stream=stream, capture_error_mode="thread_local"):
                yield

    def capturing(self) -> bool:
        return bool(torch_npu.npu.is_current_stream_capturing())

    def graph_task_group_begin(self, stream: Any) -> None:
        torch_npu.npu.graph_task_group_begin(stream)

    def graph_task_group_end(self, stream: Any) -> Any:
        return torch_npu.npu.graph_task_group_end(stream)

    def graph_task_update_begin(self, stream: Any, handle: Any) -> None:
        torch_npu.npu.graph_task_update_begin(stream, handle)

    def graph_task_update_end(self, stream: Any) -> None:
        torch_npu.npu.graph_task_update_end(stream)

    def virtual_memory(self) -> VirtualMemory | None:
        try:
            version("vllm-ascend")
        except PackageNotFoundError:
            return None
        from hardpoint_npu.virtual_memory import AscendVirtualMemory

        return AscendVirtualMemory()

    def format_cast(self, tensor: torch.Tensor, acl_format: int) -> torch.Tensor:
        # Without this torch_npu answers with the plain format and says nothing (vllm-ascend sets it too).
        torch_npu.npu.config.allow_internal_format = True
        made: torch.Tensor = torch_npu.npu_format_cast(tensor, acl_format)
        return made

    def format_of(self, tensor: torch.Tensor) -> int:
        return int(torch_npu.get_npu_format(tensor))
