"""`NpuRuntime`: everything of torch_npu that this backend calls. `hardpoint_npu.vendor` binds it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from hardpoint.communicator import Communicator, Rendezvous
from hardpoint.device import Device, DeviceRuntime
from hardpoint.launcher import KernelLauncher
from hardpoint.lifecycle.virtual_memory import VirtualMemory


class NpuRuntime(DeviceRuntime, Protocol):
    """The narrow surface. Indexes are valid when they arrive here."""

    def native_communicator(
        self, rendezvous: Rendezvous, carried: frozenset[str], reduce_ops: frozenset[str]
    ) -> Communicator: ...

    def launcher(self, device: Device, capturing: Callable[[], bool]) -> KernelLauncher: ...

    def fill_kernel(self) -> Any:
        """A compiled kernel ``(out, n)``: ``out[i] = i`` for i below n, program p of P takes p, p + P, p + 2P ..."""
        ...

    def core_count(self, index: int) -> int:
        """Vector cores: as many programs run at a time."""
        ...

    def graph_refusal(self) -> str | None: ...
    def graph_stream_budget(self) -> int: ...
    def new_graph(self) -> Any: ...
    def capture(self, graph: Any, index: int) -> AbstractContextManager[None]: ...
    def capturing(self) -> bool: ...

    def graph_task_group_begin(self, stream: Any) -> None:
        """In a capture: what follows on `stream`, up to the end of the group, is a task that can be updated."""
        ...

    def graph_task_group_end(self, stream: Any) -> Any:
        """The task's handle."""
        ...

    def graph_task_update_begin(self, stream: Any, handle: Any) -> None:
        """What follows on `stream`, up to the end of the update, gives the task new arguments; it does not run."""
        ...

    def graph_task_update_end(self, stream: Any) -> None: ...

    def virtual_memory(self) -> VirtualMemory | None:
        """Calls that unmap device memory; None where none are bound."""
        ...

    def format_cast(self, tensor: torch.Tensor, acl_format: int) -> torch.Tensor:
        """The same matrix in another storage format; `tensor` itself if it has it."""
        ...

    def format_of(self, tensor: torch.Tensor) -> int:
        """ACL number of the storage format."""
        ...
