"""`BackendSource`: how any process makes the backend under test again, faults included."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hardpoint.conformance.claims import ExtraCase, Tolerance
from hardpoint.errors import HardpointError, PluginError

if TYPE_CHECKING:
    from hardpoint.backend import Backend


@dataclass(frozen=True)
class Subject:
    """A backend under test, with the cases and tolerances that its plugin brings, and (name, version) of its wheel."""

    backend: Backend
    extra_cases: tuple[ExtraCase, ...] = ()
    tolerances: tuple[Tolerance, ...] = ()
    distribution: tuple[str, str] | None = None


@dataclass(frozen=True)
class BackendSource:
    """Where a backend comes from; picklable, so that every child process builds the same one.

    Attributes:
        name: as in ``HARDPOINT_BACKEND``: ``"sim"``, ``"sim:xpu"``. Empty if `factory` is given.
        factory: ``"module:attribute"``; called without arguments it gives a `Backend` or a `Subject`.
        changes: what to plant on top, in this order: names of mutants or legal variants of the kit, or
            ``"module:attribute"`` of a `Mutant`, a `LegalVariant` or a function from `Backend` to `Backend`.
    """

    name: str = ""
    factory: str | None = None
    changes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """For people, for example ``"sim + device.global-current-device"``."""
        return " + ".join((self.factory or self.name, *self.changes))

    @property
    def arguments(self) -> str:
        """What selects this source on the command line."""
        chosen = f"--factory {self.factory}" if self.factory else self.name
        return " ".join((chosen, *(f"--plant {change}" for change in self.changes)))

    def planted(self, change: str) -> BackendSource:
        """The same backend with one more change."""
        return replace(self, changes=(*self.changes, change))

    def build(self, *, anew: bool = False) -> Subject:
        """Build it in this process; `anew`: not with the object that the selection keeps.

        Raises what the plugin raises, BackendUnavailable or PluginError.
        """
        subject = _from_factory(self.factory) if self.factory else _from_name(self.name, anew)
        for change in self.changes:
            subject = replace(subject, backend=_mutation(change)(subject.backend))
        return subject


def load_attribute(reference: str) -> Any:
    """What ``"module:attribute"`` names; HardpointError with a sentence if there is no such thing."""
    module, colon, attribute = reference.partition(":")
    if not (module and colon and attribute):
        raise HardpointError(f"expected 'module:attribute', got {reference!r}")
    try:
        value: Any = importlib.import_module(module)
        for name in attribute.split("."):
            value = getattr(value, name)
    except (ImportError, AttributeError) as error:
        raise HardpointError(f"{reference!r} cannot be loaded: {error}") from error
    return value


def _from_factory(reference: str) -> Subject:
    from hardpoint.backend import Backend

    made = load_attribute(reference)()
    if isinstance(made, Backend):
        return Subject(made)
    if isinstance(made, Subject):
        return made
    raise PluginError(f"factory {reference} should return a Backend or a Subject, returned {type(made).__name__}")


def _from_name(name: str, anew: bool) -> Subject:
    from hardpoint.selection import get_backend, rebuild_backend, registry

    backend = rebuild_backend(name) if anew else get_backend(name)
    claim = registry().plugin(backend.info.name).claim
    cases: list[ExtraCase] = []
    tolerances: list[Tolerance] = []
    for answer in registry().collect("hardpoint_conformance", backend=backend):
        whose = f"hardpoint_conformance of plugin {answer.candidate!r}"
        if answer.error is not None:
            raise PluginError(f"{whose} raised {type(answer.error).__name__}: {answer.error}")
        for found in answer.value or ():
            if isinstance(found, ExtraCase):
                cases.append(found)
            elif isinstance(found, Tolerance):
                tolerances.append(found)
            else:
                raise PluginError(f"{whose} should give ExtraCase and Tolerance objects, gave {type(found).__name__}")
    return Subject(backend, tuple(cases), tuple(tolerances), (claim.distribution, claim.version))


def _mutation(change: str) -> Callable[[Backend], Backend]:
    from hardpoint.conformance.mutant import LegalVariant, Mutant
    from hardpoint.conformance.registry import find_change

    found = load_attribute(change) if ":" in change else find_change(change)
    mutate: Callable[[Backend], Backend] = found.mutate if isinstance(found, Mutant | LegalVariant) else found
    return mutate
