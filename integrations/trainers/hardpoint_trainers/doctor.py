"""The trainers' section of ``hardpoint doctor``: what of transformers and PEFT needs a repair here."""

from __future__ import annotations

from hardpoint.cli.doctor import DoctorSection, Finding
from hardpoint.shims import ShimRow, installed_version
from hardpoint_trainers import compat

_HOSTS = ("transformers", "peft", "trl", "ms-swift", "verl")


def section() -> DoctorSection:
    """Versions of the trainers' packages, and what became of each repair.

    A repair that is needed is a note, not a warning: it is put in place by the trainer's own program, not here.
    """
    found = tuple((host, version) for host in _HOSTS if (version := installed_version(host)) is not None)
    rows = compat.rows()
    return DoctorSection(
        "trainers",
        (*(found or (("trainers", "none of " + ", ".join(_HOSTS) + " is installed"),)), *map(_shown, rows)),
        tuple(_finding(row) for row in rows if row.state == "needed"),
    )


def _shown(row: ShimRow) -> tuple[str, str]:
    return f"shim {row.name}", f"{row.state}: {row.why}"


def _finding(row: ShimRow) -> Finding:
    return Finding(
        "note",
        f"{row.host} has a fault that hardpoint repairs ({row.name}): {row.why}",
        "Call hardpoint_trainers.compat.install() in the trainer before get_peft_model.",
    )
