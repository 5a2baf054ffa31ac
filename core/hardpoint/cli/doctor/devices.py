"""Devices of the chosen backend under their three names, and whether torch can be imported at all."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from hardpoint.cli.doctor.section import DoctorSection, Finding
from hardpoint.cli.identity_map import identities, names_of
from hardpoint.errors import HardpointError
from hardpoint.plugins.claims import read_claims
from hardpoint.plugins.sentence import one_line
from hardpoint.plugins.within import TooLate, call_within
from hardpoint.selection import get_backend

AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"
_TORCH_GROUP = "torch.backends"


def devices(chosen: str | None, deadline: float) -> DoctorSection:
    """The section for backend `chosen`; builds it, since a backend that probes well may still fail to build."""
    if chosen is None:
        return DoctorSection("Devices", (("devices", "no backend is chosen"),))
    try:
        rows = call_within(deadline, f"asking {chosen} for its devices", lambda: _rows(chosen))
    except (HardpointError, TooLate) as error:
        return _failed(chosen, str(error))
    except Exception as error:  # noqa: BLE001 - a driver may raise anything; it belongs into the report
        return _failed(chosen, one_line(error))
    return DoctorSection("Devices", rows)


def _rows(chosen: str) -> tuple[tuple[str, str], ...]:
    backend = get_backend(chosen)
    rows = []
    for device in identities(backend):
        variable = device.visibility_variable
        seen = f", {variable}={device.visibility_value or 'unset'}" if variable else ""
        rows.append((f"{backend.info.device_type}:{device.logical}", f"{names_of(device)}{seen}"))
    return tuple(rows)


def _failed(chosen: str, why: str) -> DoctorSection:
    return DoctorSection(
        "Devices",
        (("devices", "could not be asked"),),
        (Finding("error", f"backend {chosen!r} cannot be used: {why}", "Repair its plugin, driver or SDK."),),
    )


def autoload(deadline: float) -> DoctorSection:
    """Whether ``import torch`` survives the vendors that it loads by itself; tried in a child process."""
    vendors = sorted({claim.origin for claim in read_claims(_TORCH_GROUP).claims})
    if not vendors or os.environ.get(AUTOLOAD) == "0":
        return DoctorSection("torch's own plugins", (("loaded by import torch", "none"),))
    who = ", ".join(vendors)
    rows = (("loaded by import torch", who),)
    failure = _import_torch(deadline)
    if failure is None:
        return DoctorSection("torch's own plugins", rows)
    what = f"`import torch` fails, since torch loads {who} by itself: {failure}"
    return DoctorSection(
        "torch's own plugins",
        rows,
        (Finding("error", what, f"Set {AUTOLOAD}=0, or repair or uninstall {who}: hardpoint cannot pass over it."),),
    )


def _import_torch(deadline: float) -> str | None:
    with tempfile.TemporaryFile() as noise:
        try:
            done = subprocess.run(
                [sys.executable, "-c", "import torch"], stdout=noise, stderr=noise, timeout=deadline, check=False
            )
        except subprocess.TimeoutExpired:
            return f"it does not return within {deadline:g} s"
        if done.returncode == 0:
            return None
        noise.seek(0)
        lines = noise.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), f"exit status {done.returncode}")
        return last[:300]
