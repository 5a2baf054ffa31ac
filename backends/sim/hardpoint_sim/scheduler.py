"""In which order queued work runs: any order that streams and events allow, preferably the one that hurts.

Code that forgot to order stream B after stream A expects A to run first. So the scheduler runs only what a wait asks
for, and between unordered streams it runs the one submitted to last first: a read without a wait sees poison, a write
without a wait destroys what the other stream has yet to read. Seeds other than 0 interleave streams at random instead,
which reaches orders that "last first" does not.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from hardpoint_sim.stream import SimStream
from hardpoint_sim.work import Mark


class Scheduler:
    """Chooses what to run. `pending` holds every stream with work that has not run."""

    def __init__(self, seed: int, adversarial: bool, run_head: Callable[[SimStream], None]) -> None:
        self.pending: dict[int, SimStream] = {}
        self.adversarial = adversarial
        self._random = random.Random(seed) if seed != 0 and adversarial else None
        self._run_head = run_head

    def step(self, mark: Mark) -> None:
        """Run one item on the way to `mark`, which is not passed yet."""
        if not self.adversarial:
            self._run_earliest()
            return
        while True:
            blocker = _blocker(mark.stream)
            if blocker is None:
                break
            mark = blocker
        self._run(mark.stream)

    def run_until(self, marks: Iterable[Mark]) -> None:
        """Run what is needed to pass all `marks`; with adversarial order, the stream submitted to last goes first."""
        ordered = sorted(marks, key=lambda mark: mark.stream.last_submission)
        if self._random is not None:
            self._random.shuffle(ordered)
        if not self.adversarial:
            self._run_in_submission_order(ordered)
            return
        stack = ordered
        while stack:
            mark = stack[-1]
            if mark.passed:
                stack.pop()
                continue
            blocker = _blocker(mark.stream)
            if blocker is not None:
                stack.append(blocker)
                continue
            self._disturb()
            if not mark.passed and _blocker(mark.stream) is None:
                self._run(mark.stream)

    def _disturb(self) -> None:
        """With a random seed, other streams advance now and then although nobody waits for them."""
        if self._random is None or self._random.random() < 0.5:
            return
        ready = [stream for _, stream in sorted(self.pending.items()) if _blocker(stream) is None]
        if ready:
            self._run(self._random.choice(ready))

    def _run_in_submission_order(self, marks: list[Mark]) -> None:
        while not all(mark.passed for mark in marks):
            self._run_earliest()

    def _run_earliest(self) -> None:
        ready = [stream for stream in self.pending.values() if _blocker(stream) is None]
        self._run(min(ready, key=lambda stream: stream.queue[0].submission))

    def _run(self, stream: SimStream) -> None:
        self._run_head(stream)
        if not stream.queue:
            self.pending.pop(stream.stream_id, None)


def _blocker(stream: SimStream) -> Mark | None:
    """A mark that the stream's first item still waits for."""
    return next((mark for mark in stream.queue[0].after if not mark.passed), None)
