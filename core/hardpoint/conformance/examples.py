"""Property-based cases with hypothesis: fixed seed, no database, bounded, smallest failing case printed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Flaky
from hypothesis.strategies import SearchStrategy

from hardpoint.conformance.failure import LawFailed


def check_examples(
    check: Callable[..., None], strategies: Mapping[str, SearchStrategy[Any]], count: int, seed_value: int
) -> None:
    """Call ``check(**case)`` with up to `count` drawn cases; a failure names the smallest case found."""
    last: dict[str, Any] = {}
    failed: list[str] = []

    def run(**case: Any) -> None:
        last.clear()
        last.update(case)
        try:
            check(**case)
        except LawFailed as error:
            failed.append(f"{error} [case: {_text(case)}]")
            raise

    test = _property(run, strategies, count, seed_value, (Phase.generate, Phase.shrink))
    try:
        test()
    except LawFailed as error:
        raise LawFailed(f"{error} [smallest case found: {_text(last)}]") from error
    except Flaky as error:
        # The law failed, then held for the same case: what it left behind, or chance, decides.
        raise LawFailed(f"{failed[0] if failed else error}; the same case passed when tried again") from error
    except Exception as error:
        raise LawFailed(f"{type(error).__name__}: {error} [smallest case found: {_text(last)}]") from error


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
