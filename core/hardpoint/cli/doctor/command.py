"""``hardpoint doctor``: all sections, then what is wrong and what to do."""

from __future__ import annotations

import argparse
import os

from rich.console import Console

from hardpoint.cli.candidates import print_candidates
from hardpoint.cli.command import FOUND, GOOD, Command
from hardpoint.cli.doctor.backends import backends
from hardpoint.cli.doctor.devices import autoload, devices
from hardpoint.cli.doctor.extensions import extensions
from hardpoint.cli.doctor.section import DoctorSection, Finding
from hardpoint.cli.doctor.variables import variables
from hardpoint.cli.doctor.vendors import vendors
from hardpoint.cli.doctor.versions import versions
from hardpoint.cli.list_command import asked, choice
from hardpoint.cli.output import console, print_block, print_json, print_table
from hardpoint.cli.vendors import Machine
from hardpoint.environment import DEFAULT_DEADLINE, PROBE_DEADLINE, BadVariable, probe_deadline
from hardpoint.plugins import Candidate, Registry

_ORDER = {"error": 0, "warning": 1, "note": 2}
_PATIENCE = 4  # torch and vLLM take longer to import than a plugin may


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run(args: argparse.Namespace) -> int:
    candidates, chosen, sections = examine()
    findings = sorted((finding for section in sections for finding in section.findings), key=_severity)
    if args.json:
        print_json(
            "doctor",
            chosen=chosen,
            candidates=[row.as_dict() for row in candidates],
            sections=[section.as_dict() for section in sections],
            findings=[finding.as_dict() for finding in findings],
        )
    else:
        _show(console(), candidates, chosen, sections, findings)
    return FOUND if any(finding.severity != "note" for finding in findings) else GOOD


def examine() -> tuple[tuple[Candidate, ...], str | None, list[DoctorSection]]:
    """Look at everything. Plugins that failed before are tried again: the one who asks may have repaired them."""
    environment = dict(os.environ)
    try:
        deadline = probe_deadline(environment)
    except BadVariable:  # reported by `variables`; the rest of the report is still worth having
        del environment[PROBE_DEADLINE]
        deadline = DEFAULT_DEADLINE
    registry = Registry(environment, retry_failures=True)
    candidates = registry.candidates()
    chosen, objection = choice(registry)
    sections = [
        versions(),
        vendors(Machine(environment=environment), asked(environment)),
        backends(candidates, chosen, objection, registry),
        devices(chosen, deadline),
        autoload(_PATIENCE * deadline),
        variables(os.environ, registry.names),
        *extensions(_PATIENCE * deadline),
    ]
    return candidates, chosen, sections


def _severity(finding: Finding) -> int:
    return _ORDER[finding.severity]


def _show(
    out: Console,
    candidates: tuple[Candidate, ...],
    chosen: str | None,
    sections: list[DoctorSection],
    findings: list[Finding],
) -> None:
    print_candidates(out, candidates, chosen, title="Backends")
    for section in sections:
        if section.rows or section.overrides:
            out.print()
            print_table(out, ("", ""), section.rows, title=section.title)
        if section.overrides:
            out.print("overrides", style="dim")
            _show_overrides(out, section)
    out.print()
    if not findings:
        out.print("Nothing is wrong.", style="green")
        return
    out.print("Findings", style="bold")
    lines = [[(finding.severity, finding.what), ("", f"-> {finding.do}")] for finding in findings]
    print_table(out, ("", ""), [line for pair in lines for line in pair])


def _show_overrides(out: Console, section: DoctorSection) -> None:
    """A block each: the dotted names are too long for columns."""
    for override in section.overrides:
        print_block(
            out,
            override.target,
            (
                f"{override.kind}, {'active' if override.installed else 'not active'}, for {section.title} "
                f"{override.versions}, by {override.owner}",
                override.reason,
                override.note,
            ),
        )


COMMAND = Command("doctor", "look at this machine and say what is wrong and what to do", _arguments, _run)
