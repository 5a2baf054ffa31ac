"""How a fault is planted in one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hardpoint.backend import Backend
from hardpoint.conformance.mutant import Mutant
from hardpoint.conformance.mutants import _communicator as change
from hardpoint.errors import DeadlineExceeded


def plant(name: str, law: str, statement: str, mutate: Callable[[Backend], Backend]) -> Mutant:
    return Mutant(f"communicator.{name}", f"communicator.{law}", "communicator", statement, mutate)


def spoils_input(position: int) -> change.Around:
    def spoil(name: str, call: Any, *args: Any, **options: Any) -> None:
        call(*args, **options)
        args[position].zero_()

    return spoil


def stays_out(op: str, position: int) -> Callable[[Backend], Backend]:
    def wrap(backend: Backend, base: Any, rendezvous: Any) -> Any:
        def ragged(name: str, call: Any, *args: Any, **options: Any) -> None:
            if args[position].shape[0]:
                call(*args, **options)

        return change.around(base, ragged, (op,))

    return change.opened(wrap)


def another_deadline(seconds: Callable[[float], float | None], names: Any = change.COLLECTIVES) -> change.Around:
    def run(name: str, call: Any, *args: Any, deadline: float | None = None, **options: Any) -> Any:
        chosen = seconds(deadline) if deadline is not None and name in names else deadline
        return call(*args, deadline=chosen, **options)

    return run


def tells(change_error: Callable[[Any, DeadlineExceeded], Exception], names: Any = change.COLLECTIVES) -> Any:
    """DeadlineExceeded becomes what ``change_error(communicator, error)`` makes of it."""

    def wrap(backend: Backend, base: Any, rendezvous: Any) -> Any:
        def run(name: str, call: Any, *args: Any, **options: Any) -> Any:
            try:
                return call(*args, **options)
            except DeadlineExceeded as error:
                raise change_error(base, error) from None

        return change.around(base, run, names)

    return change.opened(wrap)
