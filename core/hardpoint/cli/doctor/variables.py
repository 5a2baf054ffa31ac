"""Environment variables that decide who sees which device and which plugin, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hardpoint.cli.doctor.section import DoctorSection, Finding
from hardpoint.environment import PREFIX, BadVariable, probe_deadline, unknown_variables

_VISIBILITY = (
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
    "ONEAPI_DEVICE_SELECTOR",
    "ASCEND_RT_VISIBLE_DEVICES",
)
_RAY = "RAY_EXPERIMENTAL_NOSET_"
_ALLOCATORS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_NPU_ALLOC_CONF")
_OTHERS = ("VLLM_PLUGINS", "VLLM_TARGET_DEVICE", "VLLM_WORKER_MULTIPROC_METHOD", "TORCH_DEVICE_BACKEND_AUTOLOAD")


def variables(environment: Mapping[str, str], backends: Iterable[str]) -> DoctorSection:
    """The section; `backends` are the names of installed plugins, whose own variables are theirs to explain."""
    always = [name for name in _VISIBILITY if name in environment] or ["CUDA_VISIBLE_DEVICES"]
    shown = [*always, *(f"{_RAY}{name}" for name in _VISIBILITY), *_OTHERS, *_ALLOCATORS]
    shown += sorted(name for name in environment if name.startswith(PREFIX))
    rows = [(name, environment.get(name, "unset")) for name in shown if name in environment or name in always]
    findings = [*_ours(environment, backends), *_ray(environment), *_allocators(environment)]
    return DoctorSection("Environment", tuple(rows), tuple(findings))


def _ours(environment: Mapping[str, str], backends: Iterable[str]) -> list[Finding]:
    findings = []
    for unknown in unknown_variables(environment, backends):
        meant = f"Did you mean {unknown.meant}? " if unknown.meant else ""
        findings.append(
            Finding("warning", f"{unknown.name} is set, but nothing reads it.", f"{meant}Correct or unset it.")
        )
    try:
        probe_deadline(environment)
    except BadVariable as error:
        findings.append(Finding("error", str(error), "Correct or unset it."))
    return findings


def _ray(environment: Mapping[str, str]) -> list[Finding]:
    """Ray narrows visibility after a runtime may have started, and its indexes are the machine's, not torch's."""
    if not any(name in environment for name in ("RAY_JOB_ID", "RAY_ADDRESS", "RAY_RAYLET_PID")):
        return []
    on = {name: environment.get(f"{_RAY}{name}") == "1" for name in _VISIBILITY}
    findings = []
    if "ZE_AFFINITY_MASK" in environment and not on["ZE_AFFINITY_MASK"]:
        what = (
            "Ray may narrow ZE_AFFINITY_MASK after Level Zero has started, which Level Zero ignores: workers then "
            "share a device."
        )
        do = f"Set {_RAY}ZE_AFFINITY_MASK=1 for all workers and choose the device by index."
        findings.append(Finding("warning", what, do))
    if on["ZE_AFFINITY_MASK"] and not on["ONEAPI_DEVICE_SELECTOR"]:  # ray #64440
        what = (
            "Ray leaves ZE_AFFINITY_MASK alone but still writes ONEAPI_DEVICE_SELECTOR, with numbers that count among "
            "the devices of a mask that it did not set: workers get the wrong device."
        )
        findings.append(Finding("warning", what, f"Set {_RAY}ONEAPI_DEVICE_SELECTOR=1 too."))
    for name in _VISIBILITY:
        if on[name] and environment.get(name):
            what = f"Ray leaves {name} alone, so the indexes that it hands out are the machine's, and torch's are not."
            do = "Translate them with hardpoint.device.identity.logical_of, or unset the variable for the workers."
            findings.append(Finding("note", what, do))
    return findings


def _allocators(environment: Mapping[str, str]) -> list[Finding]:
    return [
        Finding(
            "warning",
            f"{name}={environment[name]!r} turns expandable segments on; with them vLLM's sleep mode cannot unmap "
            "memory, and some versions disable it without a word.",
            "Take expandable_segments out of it where sleep mode is used; elsewhere leave it.",
        )
        for name in _ALLOCATORS
        if "expandable_segments:true" in environment.get(name, "").replace(" ", "").lower()
    ]
