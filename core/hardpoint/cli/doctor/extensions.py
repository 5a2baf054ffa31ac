"""Sections that integrations bring, each isolated: one that raises is a finding, not the end of the report."""

from __future__ import annotations

from hardpoint.cli.doctor.section import DoctorSection, Finding
from hardpoint.environment import PROBE_DEADLINE
from hardpoint.plugins.claims import Claim, read_claims
from hardpoint.plugins.sentence import one_line
from hardpoint.plugins.within import TooLate, call_within

GROUP = "hardpoint.doctor"


def extensions(deadline: float) -> list[DoctorSection]:
    """One section per entry point, each made within `deadline` seconds: a host such as vLLM takes long to import."""
    return [_section(claim, deadline) for claim in read_claims(GROUP).claims]


def _section(claim: Claim, deadline: float) -> DoctorSection:
    what = f"doctor section {claim.name!r} of {claim.origin} ({claim.value})"
    try:
        section: object = call_within(deadline, what, lambda: claim.entry_point.load()())
    except TooLate as error:
        do = f"Ask again when this machine is less busy, set {PROBE_DEADLINE} higher, or repair {claim.origin}."
        return _failed(claim, str(error), do)
    except (Exception, SystemExit) as error:  # noqa: BLE001
        return _failed(claim, f"{what} fails: {one_line(error)}")
    if not isinstance(section, DoctorSection):
        return _failed(claim, f"{what} should return a DoctorSection, returned {type(section).__name__}")
    return section


def _failed(claim: Claim, what: str, do: str = "") -> DoctorSection:
    do = do or f"Repair, upgrade or uninstall {claim.origin}."
    return DoctorSection(claim.name, (), (Finding("error", f"{what}.", do),))
