"""The process-wide guard of Triton launches, for the device type that this vLLM runs on."""

from __future__ import annotations

from hardpoint import guard

NO_TRITON = ("", "cpu")


def install() -> bool:
    """Install the guard if the platform launches Triton kernels; whether it is installed now.

    What kept it out (``HARDPOINT_GUARD=off``, no Triton) is in the answer of `hardpoint.guard.install`, which logs it.
    """
    from vllm.platforms import current_platform

    device_type = current_platform.device_type or ""
    if device_type in NO_TRITON:
        return False
    return guard.install(device_type).installed


def installed() -> bool:
    return guard.status().installed
