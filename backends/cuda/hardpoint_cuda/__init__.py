"""NVIDIA GPUs: the backend ``cuda``. Hooks only; the work is in `hardpoint_cuda.backend`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hardpoint import Backend, BackendInfo, Probe, hookimpl

if TYPE_CHECKING:
    from hardpoint.launcher import KernelOffer, Refusal


@hookimpl
def hardpoint_info() -> BackendInfo:
    return BackendInfo(
        name="cuda",
        device_type="cuda",
        priority=100,
        summary="NVIDIA GPUs through torch.cuda, NCCL, CUDA graphs and Triton",
        extra="cuda",
    )


@hookimpl
def hardpoint_probe() -> Probe:
    from hardpoint_cuda.probe import probe

    return probe()


@hookimpl
def hardpoint_backend(options: Mapping[str, Any]) -> Backend:
    from hardpoint_cuda.backend import build

    return build(options)


@hookimpl
def hardpoint_kernel(op: str, backend: Backend) -> list[KernelOffer | Refusal] | None:
    if backend.info.name != "cuda":
        return None
    from hardpoint_cuda.kernels import offers

    return offers(op)
