"""What torch, the machine and Ray call the devices of a backend, side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hardpoint.backend import Backend
from hardpoint.device.changes import changed_since_start
from hardpoint.device.protocol import DeviceIdentity
from hardpoint.device.visibility import RULES
from hardpoint.errors import HardpointError
from hardpoint.plugins.sentence import one_line
from hardpoint.plugins.within import TooLate, call_within

_NOSET = "RAY_EXPERIMENTAL_NOSET_"


@dataclass(frozen=True)
class IdentityMap:
    """The map.

    Attributes:
        type: torch device type.
        devices: every visible device under its names.
        variables: visibility variables that are set, with their values.
        ray: Ray's switches that are set: with one on, Ray leaves that variable alone and its indexes are the machine's.
        changes: variables that are not what this process was started with, as sentences.
        problem: why the devices could not be asked, None if they could.
    """

    type: str
    devices: tuple[DeviceIdentity, ...]
    variables: dict[str, str]
    ray: dict[str, str]
    changes: tuple[str, ...]
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "devices": [
                {"logical": device.logical, "physical": device.physical, "uuid": device.uuid} for device in self.devices
            ],
            "variables": self.variables,
            "ray": self.ray,
            "changes": list(self.changes),
            "problem": self.problem,
        }

    def rows(self) -> list[tuple[str, str]]:
        """Rows for people: a device each, then what maps one name to the other."""
        rows = [(f"{self.type}:{device.logical}", names_of(device)) for device in self.devices]
        rows += [("devices", f"could not be asked: {self.problem}")] if self.problem else []
        rows += [*self.variables.items(), *((name, f"{value} (Ray leaves it)") for name, value in self.ray.items())]
        rows += [("changed", change) for change in self.changes]
        return rows or [("devices", "none is visible")]


def names_of(device: DeviceIdentity) -> str:
    """The machine's names of a device, for people."""
    facts = (
        f"physical {device.physical}" if device.physical is not None else "",
        f"uuid {device.uuid}" if device.uuid else "",
    )
    return ", ".join(filter(None, facts)) or "no further name"


def identity_map(backend: Backend, deadline: float, environment: Mapping[str, str] | None = None) -> IdentityMap:
    """Ask `backend` for the names of its devices, within `deadline` seconds; starts the driver of its devices.

    What the driver or a variable is wrong about stands in `problem`; nothing is raised.
    """
    environment = os.environ if environment is None else environment
    devices: tuple[DeviceIdentity, ...] = ()
    problem = None
    try:
        devices = call_within(deadline, f"asking {backend.info.name} for its devices", lambda: identities(backend))
    except (HardpointError, TooLate) as error:
        problem = str(error)
    except Exception as error:  # noqa: BLE001 - a driver may raise anything; it belongs into the report
        problem = one_line(error)
    return IdentityMap(
        backend.info.device_type,
        devices,
        {name: environment[name] for name in RULES if name in environment},
        {name: value for name, value in environment.items() if name.startswith(_NOSET)},
        tuple(map(str, changed_since_start(environment))),
        problem,
    )


def identities(backend: Backend) -> tuple[DeviceIdentity, ...]:
    """Names of all visible devices."""
    return tuple(backend.device.identity(index) for index in range(backend.device.count()))
