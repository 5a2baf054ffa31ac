"""``HARDPOINT_TRACE=1``: hook calls on stderr, as they happen."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from hardpoint.environment import tracing
from hardpoint.plugins.sentence import one_line

T = TypeVar("T")


def traced(what: str, function: Callable[[], T]) -> T:
    """`function`'s result; what was called, how long it took and what came back go to stderr if tracing is on."""
    if not tracing(os.environ):
        return function()
    print(f"hardpoint trace: {what} ...", file=sys.stderr, flush=True)
    started = time.perf_counter()
    try:
        value = function()
    except BaseException as error:
        _tell(what, started, f"raised {one_line(error)}")
        raise
    _tell(what, started, f"-> {value!r:.300}")
    return value


def _tell(what: str, started: float, outcome: str) -> None:
    took = (time.perf_counter() - started) * 1e3
    print(f"hardpoint trace: {what} {outcome} ({took:.1f} ms)", file=sys.stderr, flush=True)
