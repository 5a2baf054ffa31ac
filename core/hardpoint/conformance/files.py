"""Write reports, and read them back."""

from __future__ import annotations

import json
from pathlib import Path

from hardpoint.conformance.page import render
from hardpoint.conformance.results import Report, from_json, to_json
from hardpoint.errors import HardpointError


def write_json(report: Report, path: Path) -> None:
    """The report as ``report.schema.json`` describes it. HardpointError if the file cannot be written."""
    _write(path, json.dumps(to_json(report), indent=2, ensure_ascii=False) + "\n")


def write_page(report: Report, path: Path) -> None:
    """The HTML page, and the same report as JSON beside it. HardpointError if a file cannot be written."""
    _write(path, render(report))
    write_json(report, path.with_suffix(".json"))


def read_report(path: Path) -> Report:
    """A report that `write_json` wrote. HardpointError, naming the file, if it cannot be read or is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HardpointError(f"the report {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise HardpointError(f"the report {path} cannot be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise HardpointError(f"{path}: expected a conformance report, found a {type(data).__name__}")
    return from_json(data, str(path))


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise HardpointError(f"the report {path} cannot be written: {error}") from error
