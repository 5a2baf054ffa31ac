"""`XpuRuntime`: everything of torch.xpu that this backend calls; `TorchXpu` binds it, the simulator brings its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import torch
from packaging.version import Version

from hardpoint.communicator import Communicator, Rendezvous, TorchCommunicator
from hardpoint.device import Device, DeviceRuntime, Event, MemoryInfo, Stream
from hardpoint.launcher import KernelLauncher, LauncherByKind, PythonLauncher
from hardpoint.lifecycle.virtual_memory import VirtualMemory
from hardpoint_xpu.facts import TORCH_WITH_GRAPHS


class XpuRuntime(DeviceRuntime, Protocol):
    """The narrow surface. Indexes are valid when they arrive here."""

    def device_name(self, index: int) -> str: ...

    def library_version(self) -> tuple[int, ...]:
        """Of oneCCL; empty if it cannot be known."""
        ...

    def native_communicator(
        self, rendezvous: Rendezvous, carried: frozenset[str], reduce_ops: frozenset[str]
    ) -> Communicator: ...

    def launcher(self, device: Device, capturing: Callable[[], bool]) -> KernelLauncher: ...

    def graph_refusal(self) -> str | None: ...
    def new_graph(self) -> Any: ...
    def capture(self, graph: Any, index: int) -> AbstractContextManager[None]: ...
    def capturing(self) -> bool: ...

    def virtual_memory(self) -> VirtualMemory | None:
        """Calls that unmap device memory; None where none are bound."""
        ...


class TorchXpu:
    """torch.xpu itself."""

    @property
    def device_type(self) -> str:
        return "xpu"

    def device_count(self) -> int:
        return torch.xpu.device_count()

    def current_device(self) -> int:
        return torch.xpu.current_device()

    def set_device(self, index: int) -> None:
        torch.xpu.set_device(index)

    def synchronize(self, index: int) -> None:
        torch.xpu.synchronize(index)

    def new_stream(self, index: int) -> Stream:
        return torch.xpu.Stream(device=index)  # type: ignore[no-untyped-call]

    def current_stream(self, index: int) -> Stream:
        return torch.xpu.current_stream(index)

    def set_stream(self, stream: Any) -> None:
        torch.xpu.set_stream(stream)

    def new_event(self, index: int, timing: bool) -> Event:
        # No `blocking`: torch.xpu.Event does not take it. The event belongs to the stream that records it.
        return torch.xpu.Event(enable_timing=timing)  # type: ignore[no-untyped-call]

    def memory(self, index: int) -> MemoryInfo:
        free, total = torch.xpu.mem_get_info(index)
        allocated, reserved = torch.xpu.memory_allocated(index), torch.xpu.memory_reserved(index)
        return MemoryInfo(int(free), int(total), allocated, reserved)

    def empty_cache(self) -> None:
        torch.xpu.empty_cache()

    def uuid(self, index: int) -> str | None:
        found = torch.xpu.get_device_properties(index).uuid
        return str(found) if found else None

    def device_name(self, index: int) -> str:
        return torch.xpu.get_device_name(index)

    def library_version(self) -> tuple[int, ...]:
        # torch does not say which oneCCL it loads; its xpu wheels depend on the distribution of that name.
        try:
            found = version("oneccl")
        except PackageNotFoundError:
            return ()
        return tuple(int(part) for part in found.split(".") if part.isdecimal())

    def native_communicator(
        self, rendezvous: Rendezvous, carried: frozenset[str], reduce_ops: frozenset[str]
    ) -> Communicator:
        return TorchCommunicator(rendezvous, device_type="xpu", library="xccl", carried=carried, reduce_ops=reduce_ops)

    def launcher(self, device: Device, capturing: Callable[[], bool]) -> KernelLauncher:
        from hardpoint.launcher.triton import TritonLauncher

        return LauncherByKind(TritonLauncher("xpu"), PythonLauncher(device, capturing))

    def graph_refusal(self) -> str | None:
        if Version(torch.__version__) < Version(TORCH_WITH_GRAPHS):
            return f"torch {torch.__version__} has no graphs for xpu ({TORCH_WITH_GRAPHS} has); work runs eagerly"
        return None

    def new_graph(self) -> Any:
        return torch.xpu.XPUGraph()

    @contextmanager
    def capture(self, graph: Any, index: int) -> Iterator[None]:
        with torch.xpu.device(index):
            stream: torch.xpu.Stream = torch.xpu.Stream(device=index)  # type: ignore[no-untyped-call]
            with torch.xpu.graph(graph, stream=stream):
                yield

    def capturing(self) -> bool:
        return self.graph_refusal() is None and torch.xpu.is_current_stream_capturing()

    def virtual_memory(self) -> VirtualMemory | None:
        return None
