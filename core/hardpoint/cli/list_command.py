"""``hardpoint list``: every candidate with its state and reason, and which one is chosen."""

from __future__ import annotations

import argparse
import os

from hardpoint.cli.candidates import print_candidates
from hardpoint.cli.command import FOUND, GOOD, UNUSABLE, Command
from hardpoint.cli.output import console, print_json, print_line
from hardpoint.environment import BACKEND
from hardpoint.errors import BackendUnavailable
from hardpoint.plugins import Registry, parse_request
from hardpoint.selection import resolve


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run(args: argparse.Namespace) -> int:
    registry = Registry()
    candidates = registry.candidates()
    chosen, objection = choice(registry)
    notes = list(registry.notes)
    if args.json:
        print_json(
            "list",
            backend_variable=os.environ.get(BACKEND),
            chosen=chosen,
            objection=objection,
            notes=notes,
            candidates=[row.as_dict() for row in candidates],
        )
    else:
        out = console()
        print_candidates(out, candidates, chosen)
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


COMMAND = Command("list", "all backends, each with its state and reason", _arguments, _run)
