"""`WorkerHost`: what `Lifecycle` asks of the engine, on a worker's side.

Admission is the scheduler's business, in the engine core, which has paused before it calls any worker and resumes after
all have answered: only what this worker has under way is to be looked at here.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from datetime import timedelta
from typing import Any

from hardpoint.errors import LifecycleError
from hardpoint.lifecycle import HostMemoryMap, MemoryMap
from hardpoint_vllm.sleep.memory import KV_CACHE, adopt, caches


class WorkerHost:
    """The worker that it was made for."""

    def __init__(self, worker: Any, memory: MemoryMap) -> None:
        self._worker, self._memory = worker, memory

    def close_admission(self) -> None:
        """Refuse while an update is being written; put what the worker holds now under its tags."""
        if self._worker._weight_update_active:
            raise LifecycleError(
                "a weight update is under way, and sleep would tear it: finish the update or start the trainer's "
                "session anew, then sleep"
            )
        if isinstance(self._memory, HostMemoryMap):  # on a device only what was allocated in a pool can sleep
            adopt(self._memory, self._worker)

    def drain(self, deadline: float) -> None:
        """Wait for the previous step's sends to the next pipeline stage, which vLLM waits for at its next step only."""
        end = time.monotonic() + deadline
        for handle in list(self._worker._pp_send_work):
            handle.wait(timedelta(seconds=max(end - time.monotonic(), 0.001)))
        self._worker._pp_send_work = []

    def resume(self, lost: Collection[str]) -> None:
        """Clear caches that lost their contents: what a kernel reads beyond its mask may not be NaN."""
        if KV_CACHE not in lost:
            return
        if isinstance(self._memory, HostMemoryMap):  # most of it reads as zero, and touching it would bring it back
            self._memory.clear([KV_CACHE])
            return
        for cache in caches(self._worker).values():
            cache.zero_()

    def open_admission(self) -> None:
        """Nothing: the engine core resumes scheduling when all workers have answered."""
