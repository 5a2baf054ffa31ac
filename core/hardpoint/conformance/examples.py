"""Property-based cases with hypothesis: fixed seed, no database, bounded, smallest failing case printed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Flaky
from hypothesis.strategies import SearchStrategy

from hardpoint.conformance.failure import LawFailed

# Calls after the first failure. Hypothesis would go on for hundreds, which is minutes where a call takes milliseconds.
SHRINK_CALLS = 20


class _SmallEnough(BaseException):
    """Leaves hypothesis from within a call; not an Exception, which would count as a failure of the case."""


def check_examples(
    check: Callable[..., None], strategies: Mapping[str, SearchStrategy[Any]], count: int, seed_value: int
) -> None:
    """Call ``check(**case)`` with up to `count` drawn cases; a failure names the smallest case found.

    Shrinking ends after `SHRINK_CALLS` calls.
    """
    failures: list[tuple[Exception, str]] = []
    calls = 0

    def run(**case: Any) -> None:
        nonlocal calls
        calls += bool(failures)
        if calls > SHRINK_CALLS:
            raise _SmallEnough
        try:
            check(**case)
        except Exception as error:
            failures.append((error, _text(case)))
            raise

    test = _property(run, strategies, count, seed_value, (Phase.generate, Phase.shrink))
    try:
        test()
    except Flaky as error:
        # The law failed, then held for the same case: what it left behind, or chance, decides.
        first = f"{_sentence(failures[0][0])} [case: {failures[0][1]}]" if failures else str(error)
        raise LawFailed(f"{first}; the same case passed when tried again") from error
    except (Exception, _SmallEnough) as error:
        if not failures:
            raise LawFailed(_sentence(error)) from error
        # Every call after the first failure tries something smaller, so the last one that failed is the smallest.
        smallest, text = failures[-1]
        raise LawFailed(f"{_sentence(smallest)} [smallest case found: {text}]") from smallest


def _sentence(error: BaseException) -> str:
    return str(error) if isinstance(error, LawFailed) else f"{type(error).__name__}: {error}"


def draw_examples(strategies: Mapping[str, SearchStrategy[Any]], count: int, seed_value: int) -> list[dict[str, Any]]:
    """Draw up to `count` cases without running anything; for laws in which every rank has to run the same cases."""
    drawn: list[dict[str, Any]] = []

    def collect(**case: Any) -> None:
        drawn.append(case)

    _property(collect, strategies, count, seed_value, (Phase.generate,))()
    return drawn


def _property(
    function: Callable[..., None],
    strategies: Mapping[str, SearchStrategy[Any]],
    count: int,
    seed_value: int,
    phases: tuple[Phase, ...],
) -> Callable[[], None]:
    configure = settings(
        max_examples=count,
        deadline=None,  # the law's own deadline bounds it; one slow case is not a fault
        database=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    test: Callable[[], None] = seed(seed_value)(configure(given(**strategies)(function)))
    return test


def _text(case: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in case.items())
