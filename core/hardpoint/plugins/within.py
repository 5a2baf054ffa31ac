"""A call with a deadline, in this process: for code of others that may hang."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class TooLate(Exception):
    """The call had not returned when its time was over."""


def call_within(seconds: float, what: str, function: Callable[[], T]) -> T:
    """What `function` returns or raises, SystemExit included; TooLate after `seconds`.

    The call runs in a daemon thread, which is left behind if it hangs: Python cannot end a thread. One that hangs while
    it holds the interpreter lock would hang us too; that is what the trial in a child process is for.
    """
    values: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            values.append(function())
        except BaseException as error:  # noqa: BLE001 - handed to the caller, who decides
            errors.append(error)

    thread = threading.Thread(target=run, name=f"hardpoint {what}", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not values:
        raise TooLate(f"{what} did not return within {seconds:g} s")
    return values[0]
