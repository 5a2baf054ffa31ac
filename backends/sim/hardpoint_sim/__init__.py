"""The strict simulator: the backend ``sim``. Hooks only; the work is in `hardpoint_sim.backend`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hardpoint import Backend, BackendInfo, Probe, hookimpl


@hookimpl
def hardpoint_info() -> BackendInfo:
    return BackendInfo(
        name="sim",
        device_type="sim",
        priority=-1,
        summary="strict simulator of an accelerator on the host: late streams, poisoned memory, cold-load refusals",
    )


@hookimpl
def hardpoint_probe() -> Probe:
    from hardpoint_sim.settings import read_settings
    from hardpoint_sim.slot import refusal

    reason = refusal()
    if reason is not None:
        return Probe(False, reason)
    try:
        devices = read_settings({}).devices
    except ValueError as error:
        return Probe(False, str(error))
    return Probe(True, f"{devices} simulated devices on the host's memory", devices)


@hookimpl
def hardpoint_backend(options: Mapping[str, Any]) -> Backend:
    from hardpoint_sim.backend import build

    return build(options)
