"""`Gate`: between the thread that syncs and the worker's own. Weights change only while the worker waits at it.

A worker that waits in `update_weights` runs no engine step, on any rank of the engine: the core has asked all of them.
So "paused between two engine steps" is being at the gate, and whatever touches weights is done by the worker's thread
itself, with vLLM's own contexts and streams.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hardpoint.errors import SyncError
from hardpoint.sync.transaction import Choice, Ending, Room

_FRESH = 2.0  # seconds that an ending is kept for a worker that comes to the gate just after it


@dataclass
class _Job:
    call: Callable[[], Any]
    done: bool = False
    value: Any = None
    error: BaseException | None = None


class Gate:
    """The engine's hooks of a participant, and the worker's side of them.

    Args:
        room: bytes on the device, and on the host, that an update may take now.
        inspect: looks at what is staged; SyncError to refuse it.
        patience: seconds that an update waits for the worker to come; less than the vote that it is held up in.
        log: told which mode was chosen.
    """

    def __init__(
        self,
        room: Callable[[], Room],
        inspect: Callable[[Any], None],
        patience: float,
        log: Callable[[str], None],
    ) -> None:
        self._room, self._inspect, self._log = room, inspect, log
        self.patience = patience
        self._changed = threading.Condition()
        self._here = False  # the worker waits
        self._held = False  # and is not let go
        self._jobs: list[_Job] = []
        self._ending: tuple[float, Ending] | None = None
        self._expected: int | None = None
        self._announced: int | None = None
        self._under_way: Callable[[], int | None] = lambda: None

    # The participant's side, in the thread that syncs.

    def room(self) -> Room:
        return self._room()

    def chosen(self, choice: Choice) -> None:
        self._log(choice.sentence)

    def pause(self) -> None:
        """See `EngineHooks.pause`. SyncError if the worker does not come in time."""
        with self._changed:
            if self._held:
                return
            if not self._changed.wait_for(lambda: self._here, self.patience):
                raise SyncError(
                    f"the engine did not come to take the update within {self.patience:g} s: call start_weight_update "
                    "and update_weights while the trainer publishes"
                )
            self._held = True
            epoch = self._under_way() or self._announced  # in place, it is not under way before the worker is here
            if self._expected is not None and epoch is not None and epoch != self._expected:
                raise SyncError(f"it is epoch {epoch}, the caller of update_weights expects {self._expected}")

    def announce(self, epoch: int) -> None:
        """A trainer begins an update; it is not known yet whether it can be taken."""
        self._announced = epoch

    def inspect(self, staged: Any) -> None:
        self._inspect(staged)

    def committed(self, epoch: int) -> None:
        """The core resets caches and sets the version when the worker's call returns, before the next step."""

    def resume(self) -> None:
        with self._changed:
            self._held = False
            self._changed.notify_all()

    def run(self, call: Callable[[], Any]) -> Any:
        """Have the worker's thread do something, while it is held here; its result, or what it raised."""
        job = _Job(call)
        with self._changed:
            if not self._held:
                raise SyncError("the engine is not at rest")
            self._jobs.append(job)
            self._changed.notify_all()
            self._changed.wait_for(lambda: job.done)
        if job.error is not None:
            raise job.error
        return job.value

    def ended(self, ending: Ending) -> None:
        """An update ended on this rank."""
        with self._changed:
            self._ending = (time.monotonic(), ending)
            self._changed.notify_all()

    def poke(self) -> None:
        """Something happened: whoever waits looks again."""
        with self._changed:
            self._changed.notify_all()

    # The worker's side.

    def wait(self, seconds: float, under_way: Callable[[], int | None], expected: int | None = None) -> Ending | None:
        """Be at the gate until an update has ended here; None if none began within `seconds`.

        Args:
            under_way: epoch of one that has begun and not ended: its own deadlines say how long it takes then.
            expected: the epoch that it must have; another one is refused.
        """
        end = time.monotonic() + seconds
        with self._changed:
            self._expected, self._under_way, self._here = expected, under_way, True
            self._changed.notify_all()
            try:
                while True:
                    if self._jobs:
                        self._do(self._jobs.pop(0))
                        continue
                    ending = self._fresh(end - seconds)
                    if ending is not None and (not self._held or not ending.committed):
                        return ending
                    if not self._held and time.monotonic() >= end and under_way() is None:
                        return None
                    self._changed.wait(0.5)
            finally:
                self._here = self._held = False
                self._leave_nobody_waiting()

    def _leave_nobody_waiting(self) -> None:
        """End the jobs that the worker will not do: it was interrupted while they stood in line."""
        for job in self._jobs:
            job.error = SyncError("the worker left the gate before it did what the update asked of it")
            job.done = True
        self._jobs.clear()
        self._changed.notify_all()

    def _fresh(self, since: float) -> Ending | None:
        if self._ending is None:
            return None
        at, ending = self._ending
        self._ending = None
        return ending if at >= since - _FRESH else None

    def _do(self, job: _Job) -> None:
        self._changed.release()
        try:
            job.value = job.call()
        except BaseException as error:  # noqa: BLE001 - raised again where it was asked for
            job.error = error
        finally:
            self._changed.acquire()
        job.done = True
        self._changed.notify_all()
