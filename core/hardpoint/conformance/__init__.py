"""The conformance kit: laws that every backend keeps, and the machinery that runs, reports and tests them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hardpoint.conformance.claims import Claim, ExtraCase, Tolerance
from hardpoint.conformance.law import Law, law
from hardpoint.conformance.mutant import LegalVariant, Mutant

if TYPE_CHECKING:
    from hardpoint.conformance.context import LawContext, LawFailed

__all__ = ["Claim", "ExtraCase", "Law", "LawContext", "LawFailed", "LegalVariant", "Mutant", "Tolerance", "law"]


def __getattr__(name: str) -> Any:
    # `context` imports torch; the command line lists its commands without it.
    if name in ("LawContext", "LawFailed"):
        from hardpoint.conformance import context

        return getattr(context, name)
    raise AttributeError(f"module 'hardpoint.conformance' has no attribute {name!r}")
