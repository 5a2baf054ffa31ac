"""Vendors' stacks: for each what is missing, from files and metadata, and what to do."""

from __future__ import annotations

from collections.abc import Iterable

from hardpoint.cli.doctor.section import DoctorSection, Finding, Severity
from hardpoint.cli.vendors import VENDORS, Machine, VendorFacts, VendorState, Verdict, companions_in_trouble, judge

_SEVERITY: dict[VendorState, Severity] = {
    VendorState.HALF_INSTALLED: "error",
    VendorState.WRONG_TORCH: "error",
    VendorState.NO_PACKAGE: "warning",
    VendorState.NO_DRIVER: "warning",
    VendorState.INVISIBLE: "warning",
    VendorState.NO_DEVICE: "note",
    VendorState.BUSY: "note",
}


def vendors(machine: Machine, asked: Iterable[str], facts: Iterable[VendorFacts] = VENDORS) -> DoctorSection:
    """The section; `asked`: backends that ``HARDPOINT_BACKEND`` names: what keeps them from working is an error."""
    asked = set(asked)
    rows, findings = [], []
    for vendor in facts:
        verdict = judge(vendor, machine)
        rows.append((vendor.backend, f"{verdict.state.value}: {verdict.reason}"))
        finding = _finding(verdict, vendor.backend in asked)
        findings += [finding] if finding else []
        findings += [Finding("error", trouble.what, trouble.do) for trouble in companions_in_trouble(vendor, machine)]
    return DoctorSection("Vendors", tuple(rows), tuple(findings))


def _finding(verdict: Verdict, asked: bool) -> Finding | None:
    """None where nothing of the vendor is here and nobody asked for it."""
    if verdict.state is VendorState.READY or not (verdict.concerns or asked):
        return None
    severity = "error" if asked and verdict.state is not VendorState.BUSY else _SEVERITY[verdict.state]
    return Finding(severity, f"{verdict.vendor}: {verdict.state.value}: {verdict.reason}.", verdict.do)
