"""``hardpoint conformance`` and ``hardpoint matrix``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hardpoint.cli.command import Command
from hardpoint.errors import HardpointError

if TYPE_CHECKING:
    from rich.console import Console

    from hardpoint.conformance.source import BackendSource

USAGE = 2


def _conformance_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="backend, as in HARDPOINT_BACKEND: sim, cpu, acme, sim:xpu")
    add("--json", type=Path, metavar="F", help="write the report as JSON")
    add("--report", type=Path, metavar="F.html", help="write the report as one HTML page, and as JSON beside it")
    add("--law", action="append", metavar="ID", help="run this law only; may be given again")
    add("--part", action="append", metavar="P", help="run the laws of this part only; may be given again")
    add("--seed", type=int, default=0, metavar="N", help="seed of all laws (default 0)")
    add("--known-failures", type=Path, metavar="F", help="laws that are known to fail, each with a reason")
    add("--self-test", action="store_true", help="test the laws: run them on planted faults (NAME: default sim)")
    add("--full", action="store_true", help="with --self-test: the full product, every world and the laws that wait")
    add("--factory", metavar="MODULE:ATTRIBUTE", help="instead of NAME: a function that gives the Backend")
    add("--plant", action="append", default=[], metavar="CHANGE", help="plant a mutant or legal variant on top")
    add("--jobs", type=int, metavar="N", help="laws of one process to run at a time (default: cores, at most 4)")
    add("--list", action="store_true", help="list the laws and end")


def _conformance(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    console, errors = Console(), Console(stderr=True)
    try:
        if arguments.list:
            return _list(console)
        return _self_test(arguments, console) if arguments.self_test else _run(arguments, console)
    except HardpointError as error:
        errors.print(f"hardpoint conformance: {error}", markup=False, highlight=False, soft_wrap=True)
        return USAGE


def _run(arguments: argparse.Namespace, console: Console) -> int:
    from hardpoint.conformance.files import write_json, write_page
    from hardpoint.conformance.known_failures import read_known_failures
    from hardpoint.conformance.pool import Pool
    from hardpoint.conformance.runner import run_kit
    from hardpoint.conformance.show import progress, show_report

    source = _source(arguments, default="")
    parts = _parts(arguments.part)
    known = read_known_failures(arguments.known_failures) if arguments.known_failures else {}
    with Pool(slots=arguments.jobs) as pool, progress(console, source.label) as bar:
        report = run_kit(
            pool,
            source,
            seed=arguments.seed,
            ids=arguments.law,
            parts=parts,
            known=known,
            on_result=lambda result, total: bar.advance(result.id, total),
        )
    # The files first: what is shown on a terminal can be had again, and nothing may keep the report from being written.
    if arguments.report:
        write_page(report, arguments.report)
    if arguments.json:
        write_json(report, arguments.json)
    if not report.available:
        raise HardpointError(report.problems[0])
    show_report(console, report)
    return 0 if report.kept else 1


def _self_test(arguments: argparse.Namespace, console: Console) -> int:
    from hardpoint.conformance.pool import Pool
    from hardpoint.conformance.self_test import run_self_test
    from hardpoint.conformance.show import progress, show_self_test

    unused = [flag for flag in ("json", "report", "law", "known_failures") if getattr(arguments, flag)]
    if unused:
        flags = ", ".join(f"--{flag.replace('_', '-')}" for flag in unused)
        raise HardpointError(f"{flags} cannot be used with --self-test, which tests the laws and not a backend")
    source = _source(arguments, default="sim")
    with Pool(slots=arguments.jobs) as pool, progress(console, f"self-test on {source.label}") as bar:
        report = run_self_test(
            pool,
            source,
            seed=arguments.seed,
            parts=_parts(arguments.part),
            full=arguments.full,
            on_result=lambda result, total: bar.advance(result.change, total),
        )
    show_self_test(console, report)
    return 0 if report.ok else 1


def _list(console: Console) -> int:
    from hardpoint.conformance.registry import laws

    for law in laws().values():
        about = law.claim.name if law.claim else "required"
        console.print(f"{law.id}  ({about})\n    {law.statement}", markup=False, highlight=False)
    return 0


def _source(arguments: argparse.Namespace, default: str) -> BackendSource:
    from hardpoint.conformance.source import BackendSource

    name = arguments.name or default
    if arguments.factory and arguments.name:
        raise HardpointError(f"give a backend's name or --factory, not both: {arguments.name}, {arguments.factory}")
    if not arguments.factory and not name:
        raise HardpointError("which backend? Give its name, for example: hardpoint conformance cpu")
    return BackendSource("" if arguments.factory else name, arguments.factory, tuple(arguments.plant))


def _parts(names: list[str] | None) -> list[str] | None:
    from hardpoint.conformance.registry import UnknownLaw, laws

    known = list(dict.fromkeys(law.part for law in laws().values()))
    for name in names or []:
        if name not in known:
            raise UnknownLaw(f"there is no part {name!r}; known: {', '.join(known)}")
    return names


def _matrix_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reports", nargs="+", type=Path, metavar="REPORT.json", help="reports of hardpoint conformance")


def _matrix(arguments: argparse.Namespace) -> int:
    from hardpoint.conformance.files import read_report
    from hardpoint.conformance.matrix import support_matrix

    try:
        print(support_matrix([read_report(path) for path in arguments.reports]), end="")
    except HardpointError as error:
        print(f"hardpoint matrix: {error}", file=sys.stderr)
        return USAGE
    return 0


CONFORMANCE = Command(
    "conformance",
    "run the conformance kit on a backend, or test the kit itself",
    _conformance_arguments,
    _conformance,
)
MATRIX = Command("matrix", "print the support matrix from conformance reports, as Markdown", _matrix_arguments, _matrix)
