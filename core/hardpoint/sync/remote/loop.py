"""`Loop`: one thread that hands a protocol object what happens to it, in order, and the time when it asked for it."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from hardpoint.sync.transaction.messages import Outgoing

Event = Callable[[], None]


class Clocked(Protocol):
    """A participant or a coordinator."""

    def tick(self, now: float) -> list[Outgoing]: ...

    @property
    def wake_at(self) -> float | None: ...


class Loop:
    """Events come from any thread; `turn` runs on one."""

    def __init__(self, node: Clocked, send: Callable[[Iterable[Outgoing]], None]) -> None:
        self._node = node
        self._send = send
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def put(self, event: Event) -> None:
        """Have `event` called by the loop's thread, after all that were put before it."""
        self._events.put(event)

    def turn(self, at_most: float | None, *, ticking: Callable[[], bool] = lambda: True) -> None:
        """Wait for the next event or for the time that the node asked for, at most `at_most` seconds, and handle it.

        `ticking`: asked whether the node may have the time now; if not, only events are handled.
        """
        due = self._node.wake_at if ticking() else None
        wait = at_most
        if due is not None:
            left = max(0.0, due - time.monotonic())
            wait = left if wait is None else min(wait, left)
        try:
            event = self._events.get_nowait() if wait == 0 else self._events.get(timeout=wait)
        except queue.Empty:
            pass
        else:
            event()
        if not ticking():
            return
        now = time.monotonic()
        due = self._node.wake_at
        if due is not None and due <= now:
            self._send(self._node.tick(now))
