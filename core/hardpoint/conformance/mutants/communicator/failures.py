"""Faults of dead ranks, and of broken and closed communicators."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from hardpoint.backend import Backend
from hardpoint.communicator.protocol import Verdict
from hardpoint.conformance.mutants import _communicator as change
from hardpoint.conformance.mutants._proxy import Changed
from hardpoint.conformance.mutants.communicator._plant import plant, tells
from hardpoint.errors import CommunicatorError, DeadlineExceeded


def _sits_out(backend: Backend, base: Any, rendezvous: Any) -> Any:
    def run(name: str, call: Any, *args: Any, **options: Any) -> Any:
        begin = time.monotonic()
        try:
            return call(*args, **options)
        except CommunicatorError:
            if time.monotonic() - begin < 1.0:
                time.sleep(4.0)
            raise

    return change.around(base, run, ("all_reduce",))


dead_rank_waited_for = plant(
    "dead-rank-is-waited-for",
    "dead-rank-is-noticed",
    "A rank that died is waited for long after the deadline.",
    change.opened(_sits_out),
)
dead_rank_unnamed = plant(
    "dead-rank-is-not-named",
    "dead-rank-is-noticed",
    "A connection that broke is reported without the rank at its other end.",
    tells(lambda base, error: CommunicatorError("connection closed by peer")),
)
dead_rank_misnamed = plant(
    "dead-rank-is-misnamed",
    "dead-rank-is-noticed",
    "The rank that survived is named as the dead one.",
    tells(lambda base, error: change.retold(error, missing=(base.rank,))),
)


def _swallows(backend: Backend, base: Any, rendezvous: Any) -> Any:
    def run(name: str, call: Any, *args: Any, **options: Any) -> Any:
        with contextlib.suppress(CommunicatorError):
            return call(*args, **options)

    return change.around(base, run, change.COLLECTIVES)


errors_swallowed = plant(
    "errors-are-swallowed",
    "dead-rank-is-noticed",
    "A collective that failed returns as if it had not.",
    change.opened(_swallows),
)


def _after_failure(later: Callable[[str, Any], Any], names: Any = change.EVERY) -> Callable[[Backend], Backend]:
    """Calls after a missed deadline give ``later(name, communicator)``."""

    def wrap(backend: Backend, base: Any, rendezvous: Any) -> Any:
        broken: list[bool] = []

        def run(name: str, call: Any, *args: Any, **options: Any) -> Any:
            if broken and name in names:
                return later(name, base)
            try:
                return call(*args, **options)
            except DeadlineExceeded:
                broken.append(True)
                raise

        return change.around(base, run)

    return change.opened(wrap)


def _answers(name: str, base: Any) -> Any:
    return Verdict(True, "as if nothing had happened", {}, ()) if name == "vote" else None


def _late_refusal(name: str, base: Any) -> Any:
    time.sleep(1.5)
    raise CommunicatorError(f"{name}: nobody came.")


broken_is_reused = plant(
    "broken-communicator-is-reused",
    "broken-stays-broken",
    "After a failed collective the next ones run as if nothing had happened.",
    _after_failure(_answers),
)
broken_votes = plant(
    "broken-communicator-votes",
    "broken-stays-broken",
    "After a failed collective a vote still gives a verdict.",
    _after_failure(_answers, ("vote",)),
)
broken_is_tried_again = plant(
    "broken-communicator-is-tried-again",
    "broken-stays-broken",
    "After a failed collective each further one waits again before it is refused.",
    _after_failure(_late_refusal, ("barrier",)),
)


def _after_close(later: Callable[[str, Any], Any], names: Any = change.EVERY) -> Callable[[Backend], Backend]:
    def wrap(backend: Backend, base: Any, rendezvous: Any) -> Any:
        closed: list[bool] = []

        def run(name: str, call: Any, *args: Any, **options: Any) -> Any:
            return later(name, base) if closed and name in names else call(*args, **options)

        changed = change.around(base, run)

        def close() -> None:
            closed.append(True)
            base.close()

        return Changed(changed, close=close)

    return change.opened(wrap)


def _crashes(name: str, base: Any) -> Any:
    raise AttributeError("'NoneType' object has no attribute 'allreduce'")


closed_still_answers = plant(
    "closed-communicator-answers",
    "closed-stays-closed",
    "Calls after `close` return as if they had run.",
    _after_close(_answers),
)
closed_barrier_passes = plant(
    "closed-barrier-passes",
    "closed-stays-closed",
    "`barrier` after `close` returns at once, every other call is refused.",
    _after_close(_answers, ("barrier",)),
)
closed_crashes = plant(
    "closed-communicator-crashes",
    "closed-stays-closed",
    "A call after `close` fails with an AttributeError from inside.",
    _after_close(_crashes),
)


def _closes_once(backend: Backend, base: Any, rendezvous: Any) -> Any:
    closed: list[bool] = []

    def close() -> None:
        if closed:
            raise CommunicatorError("the group was destroyed already.")
        closed.append(True)
        base.close()

    return Changed(base, close=close)


closes_only_once = plant(
    "close-raises-the-second-time",
    "closed-stays-closed",
    "The second `close` raises.",
    change.opened(_closes_once),
)
