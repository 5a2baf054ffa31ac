"""``hardpoint info [NAME]``: what one backend is, what it declares and which parts it is made of."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import fields
from typing import Any

from hardpoint.backend import Backend
from hardpoint.cli.command import FOUND, GOOD, UNUSABLE, Command
from hardpoint.cli.identity_map import IdentityMap, identity_map
from hardpoint.cli.output import console, print_json, print_table
from hardpoint.environment import probe_deadline
from hardpoint.errors import BackendUnavailable, PluginError
from hardpoint.plugins import Candidate
from hardpoint.selection import get_backend, registry


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="backend (default: what HARDPOINT_BACKEND means here)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run(args: argparse.Namespace) -> int:
    try:
        backend = get_backend(args.name)
    except (BackendUnavailable, PluginError) as error:
        print(f"hardpoint: {error}", file=sys.stderr)
        if args.json:
            rows = [row.as_dict() for row in registry().candidates()]
            print_json("error", error=type(error).__name__, message=str(error), candidates=rows)
        return UNUSABLE
    facts = describe(backend, registry().rows(backend.info.name)[0])
    names = identity_map(backend, probe_deadline(os.environ))
    if args.json:
        print_json("info", **facts, identity=names.as_dict())
    else:
        _show(facts, names)
    return FOUND if names.problem else GOOD


def describe(backend: Backend, row: Candidate) -> dict[str, Any]:
    """What is known about `backend` without using its device."""
    claims = backend.capabilities
    parts = [field.name for field in fields(backend) if field.name not in ("info", "capabilities")]
    return {
        **row.as_dict(),
        "capabilities": {
            field.name: _plain(getattr(claims, field.name)) for field in fields(claims) if field.name != "extras"
        },
        "extras": dict(claims.extras),
        "parts": {name: _whose(getattr(backend, name)) for name in parts},
    }


def _whose(part: object) -> str:
    kind = part if isinstance(part, type) or hasattr(part, "__qualname__") else type(part)
    return f"{kind.__module__}.{kind.__qualname__}".partition(".<locals>")[0]


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, frozenset) else value


def _show(facts: dict[str, Any], names: IdentityMap) -> None:
    out = console()
    rows = [
        ("backend", f"{facts['name']}: {facts['summary']}"),
        ("from", f"{facts['distribution']} {facts['version']} ({facts['entry_point']})"),
        ("plugin API", ".".join(map(str, facts["api"]))),
        ("devices", f"{facts['device_count']} of type {facts['device_type']}: {facts['reason']}"),
        ("priority", str(facts["priority"]) + (" (never chosen by auto)" if facts["priority"] < 0 else "")),
        ("aliases", ", ".join(facts["aliases"]) or "none"),
    ]
    print_table(out, ("", ""), rows)
    out.print()
    print_table(out, ("", ""), names.rows(), title="Devices")
    claims = [(name, _words(value)) for name, value in facts["capabilities"].items()]
    out.print()
    print_table(out, ("", ""), claims + list(facts["extras"].items()), title="Declared")
    out.print()
    print_table(out, ("", ""), list(facts["parts"].items()), title="Parts")


def _words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "not claimed"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "not claimed"
    return str(value)


COMMAND = Command("info", "what one backend is and can do", _arguments, _run)
