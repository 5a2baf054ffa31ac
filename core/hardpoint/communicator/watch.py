"""Deadlines of collectives that run on a device: the host does not wait for them, a thread looks at them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from hardpoint.communicator.recorder import DONE


class Watch:
    """Outstanding device collectives in order; `overdue(number, call, seconds)` is called once, for the first late."""

    def __init__(
        self, overdue: Callable[[int, str, float], None], completed: Callable[[int, str], None] = lambda *_: None
    ) -> None:
        self._overdue = overdue
        self._completed = completed
        self._pending: deque[_Entry] = deque()
        self._tripped = False

    def begin(self, number: int, call: str, seconds: float) -> Callable[[Any], None]:
        """Watch a call from before it is issued; the answer is to be called with its work once that is there.

        Issuing may block the host as well: NCCL connects to a peer when it is first needed.
        """
        entry = _Entry(number, call, seconds, time.monotonic() + seconds)
        self._pending.append(entry)
        return entry.issued

    def drop(self, number: int) -> None:
        """Forget a call that was not issued after all."""
        for entry in list(self._pending):
            if entry.number == number:
                self._pending.remove(entry)

    def look(self) -> None:
        """Drop what is complete; report the first that is late. Called by one thread, a few dozen times a second."""
        while self._pending and not self._tripped:
            entry = self._pending[0]
            if entry.work is not None and entry.work.is_completed():
                self._pending.popleft()
                self._completed(entry.number, DONE)
            elif time.monotonic() >= entry.end:
                try:
                    self._overdue(entry.number, entry.call, entry.seconds)
                finally:
                    self._tripped = True  # last: whoever waits in `drain` looks for the reason next
            else:
                return

    def drain(self, number: int) -> None:
        """Block until call `number` is complete or something is late (each call has its own deadline)."""
        while not self._tripped and any(entry.number <= number for entry in self._pending.copy()):
            time.sleep(0.0002)


class _Entry:
    """One call under way; `work` is None while it is being issued."""

    def __init__(self, number: int, call: str, seconds: float, end: float) -> None:
        self.number, self.call, self.seconds, self.end = number, call, seconds, end
        self.work: Any = None

    def issued(self, work: Any) -> None:
        self.work = work
