"""Plugins, and the backend that is chosen: which fail and why, and what to do about each."""

from __future__ import annotations

import os

from hardpoint.cli.doctor.section import DoctorSection, Finding
from hardpoint.environment import BACKEND
from hardpoint.plugins import Candidate, Registry, State

_DO = {
    State.FAILS_TO_LOAD: "Repair, upgrade or uninstall {origin}; HARDPOINT_PLUGINS can keep it out until then.",
    State.WRONG_API: "Do what the message says, or uninstall {origin}.",
    State.DUPLICATE: "Uninstall one of them, or list the distributions to be trusted in HARDPOINT_PLUGINS.",
    State.PROBE_FAILED: "Repair the driver or SDK that {origin} asks, or report it to its authors.",
}


def backends(
    candidates: tuple[Candidate, ...], chosen: str | None, objection: str | None, registry: Registry
) -> DoctorSection:
    """The section: broken plugins, notes of the registry, and whether ``HARDPOINT_BACKEND`` means something here."""
    findings = [
        Finding(
            "error" if row.name == chosen or row.state is State.DUPLICATE else "warning",
            f"backend {row.name!r} of {row.origin}: {row.state.value}: {row.reason}.",
            _DO[row.state].format(origin=row.origin),
        )
        for row in {row.name: row for row in candidates if row.state.broken}.values()
    ]
    findings += [Finding("warning", f"{note}.", "Correct it, or reinstall what it names.") for note in registry.notes]
    if objection:
        findings.insert(0, Finding("error", objection, f"Set {BACKEND} to an available backend, or unset it for auto."))
    asked = os.environ.get(BACKEND, "")
    rows = (
        (BACKEND, asked or "unset (auto for programs; inside vLLM the platform is left alone)"),
        ("chosen", chosen or ("none: hardpoint is off" if objection is None else "none")),
    )
    return DoctorSection("Selection", rows, tuple(findings))
