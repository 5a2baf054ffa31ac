"""Reports and records from files and folders; what is none of them is said, never passed over."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hardpoint.probe.report import UnreadableReport


def read_sources(paths: Iterable[str | Path], kind: str) -> list[tuple[str, dict[str, Any]]]:
    """(path, data) of every JSON object of `kind` in `paths`; of a folder, of all ``*.json`` in it.

    In a folder files of other kinds may lie beside; a file that is named must be of the kind.

    Raises:
        UnreadableReport: nothing there, no JSON, or of another kind.
    """
    found: list[tuple[str, dict[str, Any]]] = []
    for given in map(Path, paths):
        if given.is_dir():
            inside = [(str(path), _read(path)) for path in sorted(given.glob("*.json"))]
            mine = [(source, data) for source, data in inside if data.get("kind") == kind]
            if not mine:
                raise UnreadableReport(f"{given} should hold files of kind {kind}, holds none ({len(inside)} others).")
            found += mine
        else:
            data = _read(given)
            if data.get("kind") != kind:
                raise UnreadableReport(f"{given} should be of kind {kind}, is of kind {data.get('kind')!r}.")
            found.append((str(given), data))
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise UnreadableReport(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UnreadableReport(f"{path} should be JSON: {error}.") from error
    if not isinstance(data, dict):
        raise UnreadableReport(f"{path} should be a JSON object, is a {type(data).__name__}.")
    return data
