"""Run one step with a deadline."""

from __future__ import annotations

import threading
from collections.abc import Callable


class StepStuck(Exception):
    """The step did not end in time; `thread` may still be changing things."""

    def __init__(self, message: str, thread: threading.Thread) -> None:
        super().__init__(message)
        self.thread = thread


def run_step(name: str, step: Callable[[], None], deadline: float) -> None:
    """Call `step` in a thread of its own; raises what it raises, or StepStuck after `deadline` seconds.

    A thread, since nothing else bounds a driver call that hangs. Current device and stream are per thread: the step
    has to set them.
    """
    errors: list[BaseException] = []

    def run() -> None:
        try:
            step()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            errors.append(error)

    thread = threading.Thread(target=run, name=f"hardpoint lifecycle: {name}", daemon=True)
    thread.start()
    thread.join(max(deadline, 0.0))
    if thread.is_alive():
        raise StepStuck(f"did not end within its deadline of {deadline:.1f} s and may still be running", thread)
    if errors:
        raise errors[0]
