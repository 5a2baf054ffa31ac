"""Logical index, physical index and UUID of a device: one map between what torch, the machine and Ray call it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from hardpoint.device.protocol import DeviceIdentity
from hardpoint.device.visibility import rule_of, visible_devices
from hardpoint.errors import DeviceError

__all__ = ["logical_of", "physical_name", "uuid_in", "visible_devices"]


def physical_name(
    variable: str | None, value: str | None, logical: int, environment: Mapping[str, str] | None = None
) -> str | None:
    """Index or name on the machine of a logical device; the index itself if nothing is hidden, None if not listed.

    Numbers of ``ONEAPI_DEVICE_SELECTOR`` count among the devices that ``ZE_AFFINITY_MASK`` leaves, so both are read.
    `environment` (default: this process's) is asked for that second variable. None also where the second variable
    leaves devices out by ``!``: what is left depends on how many there are.

    Raises:
        DeviceError: a value that the driver does not read as it looks, see `visible_devices`.
    """
    if variable is None:
        return str(logical)
    environment = os.environ if environment is None else environment
    second = rule_of(variable).applied_before
    if second is not None:
        value_of_second = environment.get(second)
        if "!" in (value_of_second or ""):
            return None
        chosen = visible_devices(second, value_of_second, environment)
        if chosen is not None:
            if logical >= len(chosen):
                return None
            if not chosen[logical].isdecimal():
                return chosen[logical] if value is None else None
            logical = int(chosen[logical])
    listed = visible_devices(variable, value, environment)
    if listed is None:
        return str(logical)
    return listed[logical] if logical < len(listed) else None


def logical_of(physical: str, devices: Sequence[DeviceIdentity]) -> int:
    """torch's index of the device that the machine, or Ray, calls `physical` (an index, a UUID or a name).

    Ray hands out indexes of the machine; torch counts what this process sees. Under a visibility variable they differ.

    Raises:
        DeviceError: no visible device is called that, with what is there.
    """
    for device in devices:
        if physical in (device.physical, device.uuid):
            return device.logical
    names = ", ".join(f"{device.logical} is {device.physical or device.uuid or 'unnamed'}" for device in devices)
    variable = next((device.visibility_variable for device in devices if device.visibility_variable), None)
    hidden = f" {variable}={os.environ.get(variable)!r} may hide it." if variable else ""
    raise DeviceError(
        f"No visible device is called {physical!r} on this machine ({names or 'none is visible'}).{hidden}"
    )


def uuid_in(physical: str | None) -> str | None:
    """`physical` itself if it is a full UUID or MIG name, else None."""
    if physical is None:
        return None
    full = re.fullmatch(r"(GPU|MIG)-[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", physical)
    return physical if full or physical.startswith("MIG-GPU-") else None
