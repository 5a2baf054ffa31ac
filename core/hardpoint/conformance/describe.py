"""What a backend says about itself, as plain data for the report."""

from __future__ import annotations

import platform
from importlib import metadata

import torch

from hardpoint.backend import Capabilities
from hardpoint.conformance.messages import Description, DeviceFacts, ExtraLaw
from hardpoint.conformance.registry import laws
from hardpoint.conformance.source import Subject


def describe(subject: Subject) -> Description:
    """Ask the backend; runs in a worker. Raises what the backend raises."""
    backend = subject.backend
    return Description(
        name=backend.info.name,
        summary=backend.info.summary,
        device_type=backend.device.type,
        api=backend.info.api,
        devices=tuple(_device(subject, index) for index in range(backend.device.count())),
        due=frozenset(law.id for law in laws().values() if law.due(backend.capabilities)),
        claims=declared(backend.capabilities),
        ranks_share_device=backend.capabilities.ranks_share_device,
        extra_laws=tuple(
            ExtraLaw(case.id, case.statement, case.claim, case.ranks, case.deadline) for case in subject.extra_cases
        ),
        tolerances=tuple(
            f"{tolerance.law} {tolerance.dtype}: rtol {tolerance.rtol:g}, atol {tolerance.atol:g}; {tolerance.reason}"
            for tolerance in subject.tolerances
        ),
        versions=_versions(subject),
    )


def declared(capabilities: Capabilities) -> tuple[str, ...]:
    """Everything declared, by the names that claims have in laws and reports."""
    flags = [name for name in ("graph", "sleep", "streams") if getattr(capabilities, name)]
    return (
        *flags,
        *(f"dtype {name}" for name in sorted(capabilities.dtypes)),
        *(f"communication dtype {name}" for name in sorted(capabilities.communication_dtypes)),
        *(f"reduce op {name}" for name in sorted(capabilities.reduce_ops)),
        *(f"sparse format {name}" for name in sorted(capabilities.sparse_formats)),
        *(f"extra {name}" for name in sorted(capabilities.extras)),
    )


def _device(subject: Subject, index: int) -> DeviceFacts:
    identity = subject.backend.device.identity(index)
    visibility = None
    if identity.visibility_variable is not None:
        value = "unset" if identity.visibility_value is None else identity.visibility_value
        visibility = f"{identity.visibility_variable}={value}"
    total = subject.backend.device.memory(index).total
    return DeviceFacts(index, identity.physical, identity.uuid, visibility, total)


def _versions(subject: Subject) -> tuple[tuple[str, str], ...]:
    found = [("python", platform.python_version()), ("torch", torch.__version__)]
    if subject.distribution is not None and subject.distribution[0] != "hardpoint":
        found.append(subject.distribution)
    for name in ("hardpoint", "triton", "hypothesis"):
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue  # optional here, and its absence shows in the report by its absence
    return tuple(found)
