"""`build`: the CUDA backend, put together from its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hardpoint import Backend
from hardpoint.communicator import communicator_factory
from hardpoint.launcher import LauncherByKind, PythonLauncher
from hardpoint.launcher.triton import TritonLauncher
from hardpoint_cuda import hardpoint_info
from hardpoint_cuda.box_kernels import CudaBoxKernels
from hardpoint_cuda.capabilities import read
from hardpoint_cuda.device import CudaDevice
from hardpoint_cuda.dp_rule import DP_RULE
from hardpoint_cuda.graphs import CudaGraphs


def build(options: Mapping[str, Any]) -> Backend:
    """The backend of this process. ValueError for an option that is not understood; creates no device context."""
    if options:
        raise ValueError(f"the backend 'cuda' takes no options, found {dict(options)}")
    device, graphs, capabilities, triton = CudaDevice(), CudaGraphs(), read(), TritonLauncher("cuda")
    return Backend(
        info=hardpoint_info(),
        device=device,
        communicator=communicator_factory("cuda", capabilities),
        capabilities=capabilities,
        launcher=LauncherByKind(triton, PythonLauncher(device, graphs.capturing)),
        dp_rule=DP_RULE,
        graphs=graphs,
        box_kernels=CudaBoxKernels(triton),
    )
