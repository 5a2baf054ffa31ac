"""`judge`: which of the things that can be wrong is wrong first, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from hardpoint.cli.vendors.facts import VendorFacts
from hardpoint.cli.vendors.machine import Machine
from hardpoint.cli.vendors.versions import another_release, unmet
from hardpoint.device.visibility import visible_devices
from hardpoint.errors import DeviceError


class VendorState(str, Enum):
    """What stands between a vendor's devices and their use; the first that holds, in this order."""

    HALF_INSTALLED = "half installed"
    NO_PACKAGE = "package missing"
    WRONG_TORCH = "wrong torch version"
    NO_DEVICE = "no device"
    NO_DRIVER = "driver absent"
    INVISIBLE = "device invisible"
    BUSY = "device busy"
    READY = "nothing is missing"


@dataclass(frozen=True)
class Verdict:
    """What was found of one vendor.

    Attributes:
        vendor: name of the backend.
        state: what holds.
        reason: a sentence: what was found.
        do: what to do about it; empty if nothing.
        concerns: something of this vendor is here (a device or a package), so that somebody will care.
    """

    vendor: str
    state: VendorState
    reason: str
    do: str
    concerns: bool

    def as_dict(self) -> dict[str, Any]:
        return {"vendor": self.vendor, "state": self.state.value, "reason": self.reason, "do": self.do}


def judge(vendor: VendorFacts, machine: Machine) -> Verdict:
    """Look at one vendor's stack on `machine`. Imports nothing of it and opens no device."""
    nodes = machine.nodes(vendor.nodes, vendor.pci[0])
    pci = machine.pci_devices(*vendor.pci)
    there = bool(nodes or pci)
    has_sdk = machine.version(vendor.sdk) is not None if vendor.sdk else machine.torch_built_for(vendor.backend)
    for check in (_package, _driver, _visible):
        found = check(vendor, machine, nodes, pci)
        if found is not None:
            state, reason, do = found
            return Verdict(
                vendor.backend, state, reason, do, there or bool(has_sdk) or state is VendorState.HALF_INSTALLED
            )
    held = {str(node): machine.holders(node) for node in nodes}
    busy = [f"{node} is open in process {', '.join(who)}" for node, who in held.items() if who]
    if busy:
        do = f"End what is no longer wanted, or choose another device by {vendor.variable}; sharing may be intended."
        return Verdict(vendor.backend, VendorState.BUSY, "; ".join(busy), do, True)
    return Verdict(vendor.backend, VendorState.READY, _count(vendor, len(nodes)), "", True)


_Found = tuple[VendorState, str, str] | None


def _package(vendor: VendorFacts, machine: Machine, nodes: list[Path], pci: list[str]) -> _Found:
    where = f"; {_count(vendor, max(len(nodes), len(pci)))} is here" if nodes or pci else ""
    if vendor.sdk is None:
        if machine.torch_built_for(vendor.backend) is None:
            built = machine.version("torch") or "not installed"
            return (
                VendorState.NO_PACKAGE,
                f"this torch ({built}) is built without {vendor.backend}{where}",
                vendor.install,
            )
        return None
    broken = machine.broken_files(vendor.sdk)
    if broken:
        more = f", and {len(broken) - 3} more" if len(broken) > 3 else ""
        reason = f"{vendor.sdk}: {'; '.join(broken[:3])}{more}"
        return (
            VendorState.HALF_INSTALLED,
            reason,
            f"pip install --force-reinstall --no-deps {vendor.sdk}, at its version.",
        )
    if machine.version(vendor.sdk) is None:
        return VendorState.NO_PACKAGE, f"{vendor.sdk} is not installed{where}", vendor.install
    wrong = unmet(machine, vendor.sdk)
    version = machine.version(vendor.sdk)
    if wrong:
        reason = f"{vendor.sdk} {version} requires {wrong[0]}; its binary will not load"
        return (
            VendorState.WRONG_TORCH,
            reason,
            f"Install {wrong[0].split(',')[0]}, or the {vendor.sdk} made for this torch.",
        )
    other = another_release(machine, vendor.sdk)
    if other:
        reason = f"{vendor.sdk} {version} is built for torch {other}, found torch {machine.version('torch')}"
        return VendorState.WRONG_TORCH, reason, vendor.install
    return None


def _driver(vendor: VendorFacts, machine: Machine, nodes: list[Path], pci: list[str]) -> _Found:
    if not nodes:
        if not pci:
            reason = f"no {vendor.device} is on the PCI bus and no /dev/{vendor.nodes} is there"
            return VendorState.NO_DEVICE, reason, f"In a container: start it with {vendor.pass_through}."
        reason = f"{_count(vendor, len(pci))} on the PCI bus ({', '.join(pci)}), but no /dev/{vendor.nodes}"
        return VendorState.NO_DRIVER, reason, f"{vendor.driver} In a container: start it with {vendor.pass_through}."
    missing = [name for name in vendor.libraries if not machine.has_library(name, vendor.folders)]
    if missing:
        reason = f"{_count(vendor, len(nodes))}, but {' and '.join(missing)} cannot be found"
        return VendorState.NO_DRIVER, reason.replace(".so*", ".so"), vendor.driver
    return None


def _visible(vendor: VendorFacts, machine: Machine, nodes: list[Path], _pci: list[str]) -> _Found:
    closed = [str(node) for node in nodes if not machine.may_open(node)]
    if closed:
        reason = f"this user may not open {', '.join(closed)}"
        return VendorState.INVISIBLE, reason, f"Add the user to group {vendor.group} and log in again."
    value = machine.environment.get(vendor.variable)
    try:
        shown = visible_devices(vendor.variable, value, machine.environment)
    except DeviceError as error:
        return VendorState.INVISIBLE, str(error).rstrip("."), f"Correct {vendor.variable}, or unset it."
    if shown is None:
        return None
    # A node may be several devices (tiles), so a number that is too high is only certain where none is left.
    if not shown:
        return (
            VendorState.INVISIBLE,
            f"{vendor.variable}={value!r} hides every device",
            f"Correct {vendor.variable}, or unset it.",
        )
    first = min((int(entry) for entry in shown if entry.isdecimal()), default=0)
    if vendor.backend == "npu" and first >= len(nodes):
        reason = f"{vendor.variable}={value!r}, but there are {len(nodes)} devices, numbered from 0"
        return VendorState.INVISIBLE, reason, f"Correct {vendor.variable}, or unset it."
    return None


def _count(vendor: VendorFacts, number: int) -> str:
    return f"{number} {vendor.device}{'s' * (number != 1)}"
