"""Find laws in ``laws/<part>.py`` and mutants in ``mutants/<part>.py``, or in the files of a folder of that name.

Nothing is registered anywhere else; files named ``_*.py`` hold helpers.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from types import ModuleType

from hardpoint.conformance.law import Law
from hardpoint.conformance.mutant import LegalVariant, Mutant
from hardpoint.errors import HardpointError

# Parts in the order in which a backend is built up; a part that is not listed comes after them, by name.
PART_ORDER = (
    "device",
    "streams",
    "communicator",
    "all_to_all",
    "launcher",
    "moe_layout",
    "box_kernels",
    "attention_buffers",
    "dp_rule",
    "lifecycle",
    "graphs",
    "capabilities",
)


class UnknownLaw(HardpointError):
    """No law, mutant or part has that name."""


def part_rank(part: str) -> tuple[int, str]:
    """Sort key of a part."""
    return (PART_ORDER.index(part) if part in PART_ORDER else len(PART_ORDER), part)


@functools.cache
def laws() -> dict[str, Law]:
    """Every law by id, ordered by part and then as written."""
    found: dict[str, Law] = {}
    for part, module in _modules("hardpoint.conformance.laws"):
        for value in _flatten(vars(module).values()):
            if not isinstance(value, Law):
                continue
            if value.part != part:
                raise ValueError(f"law {value.id} says part {value.part!r} but lives in laws/{part}.py")
            if found.setdefault(value.id, value) is not value:
                raise ValueError(f"two laws are called {value.id}")
    return found


@functools.cache
def changes() -> dict[str, Mutant | LegalVariant]:
    """Every mutant and legal variant by name."""
    found: dict[str, Mutant | LegalVariant] = {}
    for part, module in _modules("hardpoint.conformance.mutants"):
        for value in _flatten(vars(module).values()):
            if not isinstance(value, Mutant | LegalVariant):
                continue
            if value.part != part:
                raise ValueError(f"{value.name} says part {value.part!r} but lives in mutants/{part}.py")
            if found.setdefault(value.name, value) is not value:
                raise ValueError(f"two mutants or legal variants are called {value.name}")
    return found


def mutants() -> list[Mutant]:
    return [change for change in changes().values() if isinstance(change, Mutant)]


def legal_variants() -> list[LegalVariant]:
    return [change for change in changes().values() if isinstance(change, LegalVariant)]


def find_law(id: str) -> Law:
    """The law called `id`; UnknownLaw with a suggestion if there is none."""
    if id not in laws():
        raise UnknownLaw(f"there is no law {id!r}{_suggest(id, list(laws()))}")
    return laws()[id]


def find_change(name: str) -> Mutant | LegalVariant:
    """The mutant or legal variant called `name`; UnknownLaw with a suggestion if there is none."""
    if name not in changes():
        raise UnknownLaw(f"there is no mutant or legal variant {name!r}{_suggest(name, list(changes()))}")
    return changes()[name]


def _suggest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    part = name.partition(".")[0]
    own = [one for one in known if one.startswith(f"{part}.")]
    if own:
        return f"; known of {part}: {', '.join(own)}"
    return f"; names begin with one of these: {', '.join(dict.fromkeys(one.partition('.')[0] + '.' for one in known))}"


def _flatten(values: Iterable[object]) -> Iterator[object]:
    # A module may hold a tuple of laws that it generated, for example one per dtype.
    for value in values:
        if isinstance(value, tuple):
            yield from value
        else:
            yield value


def _modules(package: str) -> Iterator[tuple[str, ModuleType]]:
    path = importlib.import_module(package).__path__
    for part in sorted((info.name for info in pkgutil.iter_modules(path)), key=part_rank):
        if part.startswith("_"):
            continue
        module = importlib.import_module(f"{package}.{part}")
        yield part, module
        for info in pkgutil.iter_modules(getattr(module, "__path__", ())):  # a part that is a folder
            if not info.name.startswith("_"):
                yield part, importlib.import_module(f"{package}.{part}.{info.name}")
