"""Run the engine's blocking call beside the trainer's, under the caller's device."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import torch


@contextmanager
def beside(call: Callable[[], None], name: str) -> Iterator[Future[None]]:
    """Start `call` in a thread for the time of the block; its outcome is in the future.

    The thread has the caller's current device: a new thread starts on device 0, which is how colocated engines of rank
    i came to work on another rank's device. It is a daemon, and nobody waits for it at the end of the block: an engine
    that hangs must not hang the trainer.
    """
    future: Future[None] = Future()
    device = torch.accelerator.current_device_index() if torch.accelerator.is_available() else None

    def run() -> None:
        try:
            if device is not None:
                torch.accelerator.set_device_index(device)
            call()
        except BaseException as error:  # noqa: BLE001 - it is the caller's to judge, by the future
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=run, name=name, daemon=True).start()
    yield future
