"""``python ci/vendor_api [check | prune | refresh [--wheels FOLDER]]``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from vendor_api import tables
from vendor_api.check import Report, check, stale, unused
from vendor_api.project import Project
from vendor_api.refresh import refresh
from vendor_api.tables import Looks
from vendor_api.usage import Usage, usage
from vendor_api.vendors import FOLDERS, UNOBTAINABLE, vendor_of


def judge() -> tuple[Usage, Report, list[str]]:
    """What our source reaches, the report on it, and complaints about the declarations beside the tables."""
    rows = tables.load_all()
    differences = tables.declared_differences()
    looks = Looks({name: releases[-1].look for name, releases in rows.items()}, lambda n: vendor_of(n, "backends/xpu/"))
    found = usage(Project.of(tables.ROOT, FOLDERS), looks)
    return found, check(found, rows, differences, tables.handed_on(), tables.unreadable()), stale(rows, differences)


def prune(found: Usage) -> None:
    """Take the rows out of the tables that nothing reaches any more; needs no wheel."""
    rows = tables.load_all()
    gone = set(unused(rows, found, tables.declared_members()))
    for table in [table for releases in rows.values() for table in releases]:
        tables.save(replace(table, names={name: row for name, row in table.names.items() if name not in gone}))
    print(f"taken out: {', '.join(sorted(gone)) or 'nothing'}")


def main() -> int:
    """0: every vendor call is covered; 1: something is wrong, said with file and line."""
    parser = argparse.ArgumentParser(prog="python ci/vendor_api", description="vendor calls against vendors' packages")
    parser.add_argument("what", nargs="?", choices=("check", "prune", "refresh"), default="check")
    parser.add_argument("--wheels", type=Path, help="folder that has the wheels, or gets them")
    options = parser.parse_args()
    if options.what == "refresh":
        with tempfile.TemporaryDirectory() as scratch:
            refresh(options.wheels or Path(scratch))
        for name, why in UNOBTAINABLE.items():
            print(f"{name}: {why}")
    found, report, declarations = judge()
    if options.what == "prune":
        prune(found)
    complaints = [*report.complaints, *declarations]
    print("\n".join([*complaints, str(report)]))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
