"""Deadlines of collectives that run on a device: the host does not wait for them, a thread looks at them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any


class Watch:
    """Outstanding device collectives in order; `overdue(number, call, seconds)` is called once, for the first late."""

    def __init__(self, overdue: Callable[[int, str, float], None]) -> None:
        self._overdue = overdue
        self._pending: deque[tuple[int, str, float, float, Any]] = deque()
        self._done = -1
        self._tripped = False

    def add(self, number: int, call: str, seconds: float, work: Any) -> None:
        """Watch `work` until it is complete or `seconds` have passed."""
        self._pending.append((number, call, seconds, time.monotonic() + seconds, work))

    def look(self) -> None:
        """Drop what is complete; report the first that is late. Called by one thread, a few dozen times a second."""
        while self._pending and not self._tripped:
            number, call, seconds, end, work = self._pending[0]
            if work.is_completed():
                self._pending.popleft()
                self._done = number
            elif time.monotonic() >= end:
                self._tripped = True
                self._overdue(number, call, seconds)
            else:
                return

    def drain(self, number: int) -> None:
        """Block until call `number` is complete or something is late (each call has its own deadline)."""
        while self._done < number and self._pending and not self._tripped:
            time.sleep(0.0002)
