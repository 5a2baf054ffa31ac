"""``hardpoint explain nan`` and ``hang``: read the files of all ranks, explain, print."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from hardpoint.cli.catalogue import CommandUnusable
from hardpoint.cli.command import FOUND, GOOD
from hardpoint.cli.output import console, print_block, print_json, print_line, print_table
from hardpoint.communicator.recorder import KIND as RECORD
from hardpoint.explain import Explanation, explain_hang, explain_nan, read_sources
from hardpoint.explain.hang import read_record
from hardpoint.probe.report import KIND as REPORT
from hardpoint.probe.report import Report, read_report


def explain_nan_files(args: argparse.Namespace) -> int:
    """Reports of the probe."""
    return _print(explain_nan(_reports(_some(args)), _reports(args.clean)), args.json)


def explain_hang_files(args: argparse.Namespace) -> int:
    """Flight records."""
    return _print(
        explain_hang([read_record(data, source) for source, data in read_sources(_some(args), RECORD)]), args.json
    )


def _some(args: argparse.Namespace) -> Sequence[str]:
    if not args.rest:
        raise CommandUnusable(f"`hardpoint explain {args.what}` needs files or folders: those of all ranks together.")
    files: Sequence[str] = args.rest
    return files


def _reports(paths: Sequence[str]) -> list[Report]:
    return [read_report(data, source) for source, data in read_sources(paths, REPORT)]


def _print(found: Explanation, as_json: bool) -> int:
    status = FOUND if found.origins else GOOD
    if as_json:
        print_json("explanation", **found.as_json())
        return status
    out = console()
    print_line(out, found.summary)
    out.print()
    print_table(out, found.columns, found.rows)
    for number, origin in enumerate(found.origins, 1):
        out.print()
        print_block(out, f"{number}. {origin.title}", origin.evidence)
        print_line(out, f"rule broken: {origin.rule}", 6)
        print_line(out, f"do: {origin.advice}", 6)
        for line in origin.unproven:
            print_line(out, f"not proven: {line}", 6)
    for heading, lines in (
        ("What followed", found.followed),
        ("First differences to the clean run", found.differences),
        ("What these files cannot show", found.unproven),
    ):
        if lines:
            out.print()
            print_block(out, heading, lines)
    return status
