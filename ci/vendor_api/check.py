"""Hold what our source reaches against the tables of all supported releases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from vendor_api.found import Call, Found, misfit
from vendor_api.tables import Table
from vendor_api.usage import Usage, Use
from vendor_api.vendors import UNREADABLE, vendor_of


@dataclass(frozen=True)
class Report:
    """Outcome.

    Attributes:
        complaints: sentences, each with file and line; empty is good.
        uses: places where our source reaches a vendor, those that cannot be followed included.
        resolved: those whose name stands in the table of every supported release.
        calls: those that are calls.
        fitted: calls that fit a signature or schema which could be read.
        unreadable: those of packages that are in no wheel, declared with evidence.
        native: calls whose name alone could be read, since native code defines them.
        names: distinct names.
    """

    complaints: tuple[str, ...]
    uses: int
    resolved: int
    calls: int
    fitted: int
    native: int
    unreadable: int
    names: int

    @property
    def coverage(self) -> float:
        """Share of uses that were resolved, or declared where nothing can be read, in percent; 100 if there is none."""
        return 100.0 * (self.resolved + self.unreadable) / self.uses if self.uses else 100.0

    def __str__(self) -> str:
        return (
            f"vendor calls: {self.uses} places reach {self.names} names of vendors, {self.resolved} resolved in every "
            f"supported release ({self.coverage:.0f} %); {self.calls} calls, {self.fitted} fit a signature or op "
            f"schema, {self.unreadable} places declared (in no wheel), {self.native} calls are native (name checked, "
            "signature not readable)"
        )


def check(
    found: Usage,
    tables: dict[str, list[Table]],
    differences: Iterable[tuple[str, str]],
    handed_on: Mapping[str, Call] | None = None,
    unreadable: Mapping[str, Call] | None = None,
) -> Report:
    """Judge every use.

    Args:
        found: what our source reaches.
        tables: of all supported releases.
        differences: (name, release) that are declared to be all right.
        handed_on: how a function is called that our source hands on as a value.
        unreadable: how we call what is in no wheel.
    """
    declared = set(differences)
    shapes = handed_on or {}
    complaints = [f"{blind.where}: {blind.why}" for blind in found.blind]
    resolved = calls = fitted = native = declared_uses = 0
    for use in found.uses:
        if vendor_of(use.target, use.file) is UNREADABLE:
            wrong = _judge_declared(use, unreadable or {})
            complaints += wrong
            declared_uses += not wrong
            continue
        wrong = _judge(_with_shape(use, shapes), tables, declared)
        if not wrong and use.handed_on and use.target not in shapes and _is_function(use, tables):
            wrong = [f"{use.where}: {use.target} is handed on: say in ci/vendor_api/handed_on.txt how it is called"]
        complaints += wrong
        resolved += not wrong
        if use.call is not None:
            calls += 1
            readable = any(row.signatures for row in _rows(use, tables))
            fitted += not wrong and readable
            native += not wrong and not readable
    names = len({use.target for use in found.uses})
    return Report(
        tuple(complaints), len(found.uses) + len(found.blind), resolved, calls, fitted, native, declared_uses, names
    )


def _judge_declared(use: Use, unreadable: Mapping[str, Call]) -> list[str]:
    """A name that nothing can be read about has to be called exactly as it is declared, with evidence."""
    if use.target in unreadable:
        call = unreadable[use.target]
        fits = use.call == call
        return [] if fits else [f"{use.where}: {use.target} is called with {use.call}, declared is {call}"]
    if any(name.startswith(f"{use.target}.") for name in unreadable):
        return []
    return [f"{use.where}: {use.target} is in no wheel: declare it in ci/vendor_api/unreadable.txt"]


def _with_shape(use: Use, shapes: Mapping[str, Call]) -> Use:
    """A use that is handed on, as the call that is made of it elsewhere."""
    return replace(use, call=shapes[use.target]) if use.handed_on and use.target in shapes else use


def _is_function(use: Use, tables: dict[str, list[Table]]) -> bool:
    return any(row.kind in ("function", "op") for row in _rows(use, tables))


def _rows(use: Use, tables: dict[str, list[Table]]) -> list[Found]:
    vendor = vendor_of(use.target, use.file)
    assert vendor is not None
    return [row for table in tables[vendor.distribution] if (row := table.look(use.target)) is not None]


def _judge(use: Use, tables: dict[str, list[Table]], declared: set[tuple[str, str]]) -> list[str]:
    vendor = vendor_of(use.target, use.file)
    assert vendor is not None
    wrong = []
    for table in tables[vendor.distribution]:
        release = f"{table.distribution}-{table.version}"
        row = table.look(use.target)
        if row is None:
            return [f"{use.where}: {use.target} is in no table yet: run `make vendor-api`"]
        if (use.target, release) in declared:
            continue
        if row.kind == "missing":
            if not use.optional:
                wrong.append(f"{use.where}: {use.target} does not exist in {release}")
        elif use.call is not None and not use.call.hidden:
            reason = misfit(row, use.call)
            if reason:
                wrong.append(f"{use.where}: {use.target} in {release}: {reason}")
    return wrong


def stale(tables: dict[str, list[Table]], differences: Iterable[tuple[str, str]]) -> list[str]:
    """Declared differences that are none: the name exists there as in the newest release."""
    lines = []
    for name, release in differences:
        for rows in tables.values():
            for table in rows:
                if release == f"{table.distribution}-{table.version}":
                    here, newest = table.look(name), rows[-1].look(name)
                    if here is None or (here == newest and here.kind != "missing"):
                        lines.append(f"differences.txt: {name} is no difference in {release}: take the line out")
    return lines


def unused(tables: dict[str, list[Table]], found: Usage, members: Iterable[str]) -> list[str]:
    """Names in the tables that nothing reaches any more: neither by itself, nor on the way to another."""
    wanted = {use.target for use in found.uses} | set(members)
    parents = {".".join(name.split(".")[:n]) for name in wanted for n in range(1, name.count(".") + 1)}
    every = [table for rows in tables.values() for table in rows]
    classes = {row.returns for table in every for name, row in table.names.items() if row.returns and name in wanted}
    keep = wanted | parents | classes
    return sorted({name for table in every for name in table.names} - keep)
