"""The vLLM section of ``hardpoint doctor``."""

from __future__ import annotations

import importlib.metadata
import os

from hardpoint.cli.doctor import DoctorSection
from hardpoint.overrides import Override
from hardpoint_vllm import probe
from hardpoint_vllm.diagnosis import GROUPS, diagnose
from hardpoint_vllm.mode import VARIABLE, Mode, mode
from hardpoint_vllm.versions import SUPPORTED, installed, objection

_MEANING = {
    Mode.OFF: f"off ({VARIABLE}=off): nothing is installed in vLLM",
    Mode.WATCH: f"watch ({VARIABLE} is unset): the platform is left alone, only what cannot change results is set",
    Mode.ON: "on: everything in the table is installed",
}


def section() -> DoctorSection:
    """What is installed in vLLM here, asked of a child process that loads vLLM's plugins as an engine does."""
    wanted, version = mode(), installed()
    usable = objection(version) is None
    probed = probe.run() if usable and wanted is not Mode.OFF else None
    registered = frozenset(
        group
        for group in GROUPS
        if any(entry.name == "hardpoint" for entry in importlib.metadata.entry_points(group=group))
    )
    here = probed.here if probed else {}
    loaded = probed is not None and not probed.late and not probed.error
    took = (("plugins", f"loaded in {probed.seconds:.0f} s, in a process of its own"),) if probed and loaded else ()
    rows = (
        ("vLLM", version or "not installed"),
        ("supported", SUPPORTED),
        ("mode", _MEANING[wanted]),
        ("platform", here.get("platform") or (probed.platform if probed else "") or "not asked"),
        *took,
        *((f"left out: {module}", f"{why}.") for module, why in here.get("left", {}).items()),
        *((f"shim {row['name']}", f"{row['state']} ({row['host']}): {row['why']}") for row in here.get("shims", ())),
    )
    overrides = tuple(Override(**row) for row in probed.overrides) if probed else ()
    return DoctorSection("vLLM", rows, diagnose(version, os.environ, registered, probed), overrides)
