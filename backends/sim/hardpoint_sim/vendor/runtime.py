"""`SimRuntime`: a vendor's module on the simulator, with that vendor's rules and limits.

It has what the runtimes of the backends ask for, by structure: the simulator imports no backend.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from hardpoint.communicator import Communicator, Rendezvous
from hardpoint.device import Device, MemoryInfo
from hardpoint.launcher import KernelLauncher, LauncherByKind
from hardpoint.lifecycle.virtual_memory import VirtualMemory
from hardpoint_sim.device import SimDevice
from hardpoint_sim.engine import Engine
from hardpoint_sim.event import SimEvent
from hardpoint_sim.launcher import SimLauncher
from hardpoint_sim.slot import DEVICE_TYPE
from hardpoint_sim.stream import SimStream
from hardpoint_sim.vendor import formats
from hardpoint_sim.vendor.graphs import TaskHandle, VendorGraph, VendorGraphs
from hardpoint_sim.vendor.grid import GridKernel, GridLauncher
from hardpoint_sim.vendor.library import open_library
from hardpoint_sim.vendor.limits import LibraryLimits, Limits
from hardpoint_sim.vendor.virtual_memory import SimVirtualMemory


class SimRuntime:
    """See the module. Attributes: `engine`, `limits`."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self.engine = engine
        self.limits = limits
        self._device = SimDevice(engine)
        self._graphs = VendorGraphs(engine, limits.graph_streams)
        self._virtual_memory = SimVirtualMemory(engine)
        self._fill = GridKernel(_fill)
        engine.missing_dtypes = limits.missing_dtypes

    # devices, streams and events

    @property
    def device_type(self) -> str:
        return DEVICE_TYPE

    def device_count(self) -> int:
        return self.engine.count

    def current_device(self) -> int:
        return self.engine.current()

    def set_device(self, index: int) -> None:
        self.engine.set_current(index)

    def synchronize(self, index: int) -> None:
        self.engine.synchronize(index)

    def new_stream(self, index: int) -> SimStream:
        return self.engine.new_stream(index)

    def current_stream(self, index: int) -> SimStream:
        return self.engine.current_stream(index)

    def set_stream(self, stream: SimStream) -> None:
        self.engine.set_stream(stream)

    def new_event(self, index: int, timing: bool) -> SimEvent:
        """There is no `blocking`: neither torch.xpu nor the simulator has it."""
        return SimEvent(self.engine, index, timing=timing)

    def memory(self, index: int) -> MemoryInfo:
        return self._device.memory(index)

    def empty_cache(self) -> None:
        self._device.empty_cache()

    def uuid(self, index: int) -> str | None:
        return None

    def device_name(self, index: int) -> str:
        return f"simulated device {index}"

    # collectives

    def library_version(self) -> tuple[int, ...]:
        return (self.limits.library or LibraryLimits()).version

    def native_communicator(
        self, rendezvous: Rendezvous, carried: frozenset[str], reduce_ops: frozenset[str]
    ) -> Communicator:
        limits = self.limits.library or LibraryLimits()
        return open_library(self.engine, limits, rendezvous, carried, reduce_ops)

    # kernels

    def launcher(self, device: Device, capturing: Callable[[], bool]) -> KernelLauncher:
        """Kernels run late, under the device that `device.use` has made current: the backend's own guard counts."""
        python = SimLauncher(self.engine, device)
        return LauncherByKind(GridLauncher(python, self.limits.programs), python)

    def fill_kernel(self) -> GridKernel:
        """``out[i] = i`` for i below ``n``, by programs of a one-dimensional grid that take every ``grid[0]``-th i."""
        return self._fill

    def core_count(self, index: int) -> int:
        return 4

    # graphs

    def graph_refusal(self) -> str | None:
        return None

    def graph_stream_budget(self) -> int:
        return self.limits.graph_streams or 1 << 30

    def new_graph(self) -> VendorGraph:
        return VendorGraph()

    def capture(self, graph: VendorGraph, index: int) -> AbstractContextManager[None]:
        return self._graphs.capture(graph, index)

    def capturing(self) -> bool:
        return self._graphs.capturing()

    def graph_task_group_begin(self, stream: SimStream) -> None:
        self._graphs.begin_task(stream)

    def graph_task_group_end(self, stream: SimStream) -> TaskHandle:
        return self._graphs.end_task(stream)

    def graph_task_update_begin(self, stream: SimStream, handle: TaskHandle) -> None:
        self._graphs.begin_update(stream, handle)

    def graph_task_update_end(self, stream: SimStream) -> None:
        self._graphs.end_update(stream)

    # memory

    def virtual_memory(self) -> VirtualMemory | None:
        return self._virtual_memory

    def format_cast(self, tensor: torch.Tensor, acl_format: int) -> torch.Tensor:
        return formats.format_cast(self.engine, tensor, acl_format, dict(self.limits.private_formats))

    def format_of(self, tensor: torch.Tensor) -> int:
        return formats.format_of(tensor)


def _fill(program: tuple[int, ...], grid: tuple[int, ...], out: Any, n: int) -> None:
    # One program writes all of its elements in one operation: a program per element would take minutes here.
    out[program[0] : n : grid[0]] = torch.arange(program[0], n, grid[0], dtype=out.dtype, device=out.device)
