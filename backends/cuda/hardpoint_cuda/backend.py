"""`build`: the CUDA backend, put together from its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hardpoint import Backend
from hardpoint.communicator import communicator_factory
from hardpoint.launcher import LauncherByKind, PythonLauncher
from hardpoint.launcher.triton import TritonLauncher
from hardpoint.lifecycle.mover import PinnedMover
from hardpoint.lifecycle.virtual_memory import VirtualMemoryMap
from hardpoint_cuda import hardpoint_info
from hardpoint_cuda.box_kernels import CudaBoxKernels
from hardpoint_cuda.capabilities import read
from hardpoint_cuda.device import CudaDevice
from hardpoint_cuda.dp_rule import DP_RULE
from hardpoint_cuda.graphs import CudaGraphs

SLEEP = "sleep"


def build(options: Mapping[str, Any]) -> Backend:
    """The backend of this process; creates no device context.

    `options`: ``profile``, which is nothing or ``sleep`` (``HARDPOINT_BACKEND=cuda:sleep``): device memory that sleeps,
    asked for by name as long as it has not been run on a device. ValueError for anything else.
    """
    profile = str(options.get("profile") or "")
    if set(options) - {"profile"} or profile not in ("", SLEEP):
        raise ValueError(f"the backend 'cuda' knows the profile {SLEEP!r} and no other option, found {dict(options)}")
    device, graphs, capabilities, triton = CudaDevice(), CudaGraphs(), read(), TritonLauncher("cuda")
    parts: dict[str, Any] = {}
    if profile == SLEEP:
        capabilities = replace(capabilities, sleep=True)
        parts["memory_map"] = memory_map(device, CudaBoxKernels(triton))
    return Backend(
        info=hardpoint_info(),
        device=device,
        communicator=communicator_factory("cuda", capabilities),
        capabilities=capabilities,
        launcher=LauncherByKind(triton, PythonLauncher(device, graphs.capturing)),
        dp_rule=DP_RULE,
        graphs=graphs,
        box_kernels=CudaBoxKernels(triton),
        **parts,
    )


def memory_map(device: CudaDevice, boxes: CudaBoxKernels) -> VirtualMemoryMap:
    """Memory of torch's pools over the driver; measured by what the driver says is free."""
    from hardpoint_cuda.driver import CudaDriver
    from hardpoint_cuda.virtual_memory import CudaVirtualMemory

    memory = CudaVirtualMemory(CudaDriver(), device.synchronize)
    mover = PinnedMover(memory.view, boxes, device.synchronize)
    return VirtualMemoryMap(memory, "cuda", mover, lambda index: device.memory(index).free)
