"""`Mutant`: a backend with one planted fault. `LegalVariant`: a backend that is different, and right.

They test the laws: every mutant must be caught by the law that it names, every legal variant must pass. Both live in
``mutants/<part>.py`` as module-level objects; `mutate` takes the base backend (``sim`` unless told otherwise) and gives
a new one, as a rule by `dataclasses.replace` with a wrapping part. It runs in the law's own process, never changes the
backend it was given, and may keep no state between calls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hardpoint.backend import Backend


@dataclass(frozen=True)
class Mutant:
    """One planted fault.

    Attributes:
        name: ``part.kebab-case``, unique among mutants and legal variants.
        law: id of the law that must catch it; others may as well.
        part: file in ``mutants/`` that it lives in; the laws of this part run against it.
        statement: the fault, as a sentence.
        mutate: base backend in, faulty backend out.
    """

    name: str
    law: str
    part: str
    statement: str
    mutate: Callable[[Backend], Backend]


@dataclass(frozen=True)
class LegalVariant:
    """A backend that keeps every law in another way.

    Attributes:
        name: ``part.kebab-case``, unique among mutants and legal variants.
        part: file in ``mutants/`` that it lives in.
        statement: what is different, and why it is legal.
        mutate: base backend in, different backend out.
        parts: parts whose laws it must pass; empty means only `part`.
    """

    name: str
    part: str
    statement: str
    mutate: Callable[[Backend], Backend]
    parts: tuple[str, ...] = ()
