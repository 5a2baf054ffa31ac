"""``hardpoint list``: every candidate with its state and reason, and which one is chosen."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping

from hardpoint.cli.candidates import print_candidates
from hardpoint.cli.command import FOUND, GOOD, UNUSABLE, Command
from hardpoint.cli.output import console, print_json, print_line
from hardpoint.cli.vendors import VENDORS, Machine, judge
from hardpoint.environment import BACKEND
from hardpoint.errors import BackendUnavailable
from hardpoint.plugins import Registry, parse_request
from hardpoint.plugins.known import find_known
from hardpoint.selection import resolve


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run(args: argparse.Namespace) -> int:
    registry = Registry()
    candidates = registry.candidates()
    chosen, objection = choice(registry)
    notes = list(registry.notes)
    verdicts = [judge(vendor, Machine()) for vendor in VENDORS]
    if args.json:
        print_json(
            "list",
            backend_variable=os.environ.get(BACKEND),
            chosen=chosen,
            objection=objection,
            notes=notes,
            candidates=[row.as_dict() for row in candidates],
            vendors=[verdict.as_dict() for verdict in verdicts],
        )
    else:
        out = console()
        print_candidates(out, candidates, chosen)
        named = asked(os.environ)
        for verdict in verdicts:
            if verdict.do and (verdict.concerns or verdict.vendor in named):
                print_line(out, f"\n{verdict.vendor}: {verdict.state.value}: {verdict.reason}. {verdict.do}")
        for line in [*notes, *([objection] if objection else [])]:
            print_line(out, f"\n{line}")
    if objection:
        return UNUSABLE
    return FOUND if notes or any(row.state.broken for row in candidates) else GOOD


def choice(registry: Registry) -> tuple[str | None, str | None]:
    """Name that ``HARDPOINT_BACKEND`` means here, or the sentence why it means none; neither for ``off``."""
    try:
        request = parse_request(os.environ.get(BACKEND))
        return (None if request.off else resolve(request, registry).name), None
    except BackendUnavailable as error:
        return None, error.why


def asked(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Names, with their aliases resolved, that ``HARDPOINT_BACKEND`` asks for."""
    try:
        request = parse_request(environment.get(BACKEND))
    except BackendUnavailable:
        return ()
    names = [choice.name for choice in request.choices]
    return tuple(known.name if (known := find_known(name)) else name for name in names)


COMMAND = Command("list", "all backends, each with its state and reason", _arguments, _run)
