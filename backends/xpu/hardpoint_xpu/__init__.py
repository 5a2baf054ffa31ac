"""Intel GPUs: the backend ``xpu``. Hooks only; the work is in `hardpoint_xpu.backend`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hardpoint import Backend, BackendInfo, Probe, hookimpl

if TYPE_CHECKING:
    from hardpoint.conformance import ExtraCase
    from hardpoint.launcher import KernelOffer, Refusal


@hookimpl
def hardpoint_info() -> BackendInfo:
    return BackendInfo(
        name="xpu",
        device_type="xpu",
        priority=90,
        summary="Intel GPUs through torch.xpu, XCCL, XPU graphs and Triton",
        extra="xpu",
    )


@hookimpl
def hardpoint_probe() -> Probe:
    from hardpoint_xpu.probe import probe

    return probe()


@hookimpl
def hardpoint_backend(options: Mapping[str, Any]) -> Backend:
    from hardpoint_xpu.backend import build

    return build(options)


@hookimpl
def hardpoint_kernel(op: str, backend: Backend) -> KernelOffer | Refusal | None:
    if backend.info.name != "xpu":
        return None
    from hardpoint_xpu.kernels import offer

    return offer(op)


@hookimpl
def hardpoint_conformance(backend: Backend) -> list[ExtraCase] | None:
    from hardpoint_xpu.facts import MARK

    if MARK not in backend.capabilities.extras:
        return None
    from hardpoint_xpu.cases import CASES

    return list(CASES)
