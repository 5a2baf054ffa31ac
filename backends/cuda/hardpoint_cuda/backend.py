"""`build`: the CUDA backend, put together from its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hardpoint import Backend, Capabilities, TorchDevice
from hardpoint.communicator import communicator_factory
from hardpoint.launcher import LauncherByKind, PythonLauncher
from hardpoint.launcher.triton import TritonLauncher
from hardpoint_cuda import hardpoint_info
from hardpoint_cuda.graphs import CudaGraphs

_FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})
_INTEGERS = frozenset({"int64", "int32", "int16", "int8", "uint8", "bool"})


def build(options: Mapping[str, Any]) -> Backend:
    """The backend of this process. ValueError for an option that is not understood; creates no device context."""
    if options:
        raise ValueError(f"the backend 'cuda' takes no options, found {dict(options)}")
    device = TorchDevice("cuda", visibility_variable="CUDA_VISIBLE_DEVICES")
    graphs = CudaGraphs()
    capabilities = _capabilities()
    return Backend(
        info=hardpoint_info(),
        device=device,
        communicator=communicator_factory("cuda", capabilities),
        capabilities=capabilities,
        launcher=LauncherByKind(TritonLauncher("cuda"), PythonLauncher(device, graphs.capturing)),
        graphs=graphs,
    )


def _capabilities() -> Capabilities:
    """Facts of CUDA and NCCL as torch ships them, the same for every GPU that this torch supports (8.0 and newer)."""
    return Capabilities(
        dtypes=_FLOATS | _INTEGERS,
        # torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp, ncclDataType: int16 is absent there
        communication_dtypes=_FLOATS | {"int64", "int32", "int8", "uint8", "bool"},
        reduce_ops=frozenset({"sum", "avg", "min", "max", "prod"}),
        graph=True,
        sleep=False,
        streams=True,
    )
