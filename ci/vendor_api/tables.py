"""The committed tables: one file per release, with what each name that we reach is there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vendor_api.found import MISSING, Call, Found
from vendor_api.vendors import UNREADABLE, Vendor, distributions

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent.parent
TABLES = FOLDER / "tables"


@dataclass(frozen=True)
class Table:
    """One release.

    Attributes:
        distribution, version: of what.
        file, sha256: the wheel that was read.
        requires: what it requires of torch, from its metadata.
        names: canonical dotted name -> what it is there.
    """

    distribution: str
    version: str
    file: str
    sha256: str
    requires: tuple[str, ...]
    names: dict[str, Found]

    def look(self, name: str) -> Found | None:
        """What `name` is; None if the table was made before anybody asked for it."""
        return self.names.get(name)


def path_of(distribution: str, version: str) -> Path:
    return TABLES / f"{distribution}-{version}.json"


def load(distribution: str, version: str) -> Table:
    """The table of one release. FileNotFoundError if there is none."""
    row: dict[str, Any] = json.loads(path_of(distribution, version).read_text())
    names = {name: Found.of_json(found) for name, found in row["names"].items()}
    return Table(row["distribution"], row["version"], row["file"], row["sha256"], tuple(row["requires"]), names)


def load_all() -> dict[str, list[Table]]:
    """Tables of all supported releases by distribution, oldest first."""
    return {name: [load(name, version) for version in vendor.releases] for name, vendor in distributions().items()}


def save(table: Table) -> None:
    TABLES.mkdir(exist_ok=True)
    row = {
        "distribution": table.distribution,
        "version": table.version,
        "file": table.file,
        "sha256": table.sha256,
        "requires": list(table.requires),
        "names": {name: table.names[name].as_json() for name in sorted(table.names)},
    }
    path_of(table.distribution, table.version).write_text(json.dumps(row, indent=1) + "\n")


def lines_of(file: str) -> list[list[str]]:
    """Rows of one of the text files here: words, the last of three being a sentence; comments left out."""
    lines = (FOLDER / file).read_text().splitlines()
    return [line.split(maxsplit=2) for line in lines if line.strip() and not line.startswith("#")]


def declared_returns() -> dict[str, str]:
    """returns.txt: what a vendor's function gives where its source has no annotation."""
    return {row[0]: row[1] for row in lines_of("returns.txt")}


def declared_differences() -> dict[tuple[str, str], str]:
    """differences.txt: (name, ``distribution-version``) -> why it is all right there that it is missing or differs."""
    return {(row[0], row[1]): row[2] for row in lines_of("differences.txt")}


def unreadable() -> dict[str, Call]:
    """unreadable.txt: how we call what is in no wheel."""
    return _shapes("unreadable.txt")


def look_unreadable(name: str) -> Found | None:
    """What a name of a package that is in no wheel is, as far as unreadable.txt says it."""
    declared = unreadable()
    if name in declared:
        return Found("function", returns="plain")
    return Found("module") if any(other.startswith(f"{name}.") for other in declared) else None


def handed_on() -> dict[str, Call]:
    """handed_on.txt: how a vendor's function is called that our source hands on as a value."""
    return _shapes("handed_on.txt")


def _shapes(file: str) -> dict[str, Call]:
    """Shapes of calls, written ``2`` or ``1,timeout=``."""
    shapes = {}
    for name, shape, _why in lines_of(file):
        words = shape.split(",")
        shapes[name] = Call(int(words[0]), tuple(word.rstrip("=") for word in words[1:]))
    return shapes


def declared_members() -> list[str]:
    """members.txt: names that are reached through a protocol of core, out of the reader's sight."""
    return [row[0] for row in lines_of("members.txt")]


def member_calls() -> dict[str, Call]:
    """members.txt: how core calls those that no protocol of core describes."""
    return {row[0]: Call(int(row[1]), ()) for row in lines_of("members.txt") if len(row) > 1}


class Looks:
    """Looks names up in the newest release of whoever owns them."""

    def __init__(self, newest: dict[str, Any], owner: Any) -> None:
        """`newest`: distribution -> function from name to what is found; `owner`: name -> its `Vendor`."""
        self._newest = {**newest, UNREADABLE.distribution: look_unreadable}
        self._owner = owner
        self._returns = declared_returns()

    def __call__(self, name: str) -> Found:
        vendor: Vendor | None = self._owner(name)
        found: Found | None = self._newest[vendor.distribution](name) if vendor else None
        if found is None:
            return MISSING
        if found.returns is None and name in self._returns:
            return Found(found.kind, found.signatures, found.where, self._returns[name])
        return found
