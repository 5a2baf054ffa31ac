"""Groups that mix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hardpoint.backend import Backend
from hardpoint.conformance.mutants import _communicator as change
from hardpoint.conformance.mutants._proxy import Changed
from hardpoint.conformance.mutants.communicator._plant import plant


def _shared_group(backend: Backend) -> Backend:
    """The second communicator of a process is the first one."""
    made: list[Any] = []

    def factory(rendezvous: Any) -> Any:
        if made:
            return made[0]
        base = backend.communicator(rendezvous)

        def close() -> None:
            made.clear()
            base.close()

        made.append(Changed(base, close=close))
        return made[0]

    return replace(backend, communicator=factory)


one_group_for_all = plant(
    "one-group-for-all",
    "groups-do-not-mix",
    "Two communicators of the same ranks are one group under two names.",
    _shared_group,
)


def _shared_count(backend: Backend) -> Backend:
    made: list[Any] = []

    def factory(rendezvous: Any) -> Any:
        base = backend.communicator(rendezvous)
        made.append(base)

        def close() -> None:
            if base in made:
                made.remove(base)
            base.close()

        total: Callable[[], int] = lambda: sum(other.sequence for other in made)  # noqa: E731
        return change.answering(Changed(base, close=close), sequence=total)

    return replace(backend, communicator=factory)


one_count_for_all = plant(
    "one-sequence-for-all-groups",
    "groups-do-not-mix",
    "Calls are numbered per process instead of per communicator.",
    _shared_count,
)


def _closes_all(backend: Backend) -> Backend:
    made: list[Any] = []

    def factory(rendezvous: Any) -> Any:
        base = backend.communicator(rendezvous)
        made.append(base)

        def close() -> None:
            while made:
                made.pop().close()
            base.close()

        return Changed(base, close=close)

    return replace(backend, communicator=factory)


closes_all = plant(
    "close-ends-every-group",
    "groups-do-not-mix",
    "Closing one communicator shuts the native library down for all of them.",
    _closes_all,
)
