"""Runs broadcasts in order beside the packing, so that one bucket is on the wire while the next is filled."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch


class Lane:
    """One extra thread for host tensors. On an accelerator work is queued on the caller's current stream at once:
    there the host does not wait for a broadcast, and another thread would have another current device and stream.
    """

    def __init__(self, device: torch.device) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="hardpoint-sync") if device.type == "cpu" else None

    def submit(self, call: Callable[[], None]) -> Future[None]:
        """Start `call` after all earlier ones; its exception comes out of ``result()``."""
        if self._pool is not None:
            return self._pool.submit(call)
        done: Future[None] = Future()
        call()
        done.set_result(None)
        return done

    def __enter__(self) -> Lane:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True)  # ends within the deadline of the call in flight
