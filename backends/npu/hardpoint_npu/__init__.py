"""Ascend NPUs: the backend ``npu``. Hooks only; the work is in `hardpoint_npu.backend`."""

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
        name="npu",
        device_type="npu",
        priority=95,
        summary="Ascend NPUs through torch_npu, HCCL, ACL graphs and Triton",
        aliases=("ascend",),
        extra="npu",
    )


@hookimpl
def hardpoint_probe() -> Probe:
    from hardpoint_npu.probe import probe

    return probe()


@hookimpl
def hardpoint_backend(options: Mapping[str, Any]) -> Backend:
    from hardpoint_npu.backend import build

    return build(options)


@hookimpl
def hardpoint_kernel(op: str, backend: Backend) -> KernelOffer | Refusal | None:
    if backend.info.name != "npu":
        return None
    from hardpoint_npu.kernels import offer

    return offer(op)


@hookimpl
def hardpoint_conformance(backend: Backend) -> list[ExtraCase] | None:
    from hardpoint_npu.facts import MARK

    if MARK not in backend.capabilities.extras:
        return None
    from hardpoint_npu.cases import CASES

    return list(CASES)
