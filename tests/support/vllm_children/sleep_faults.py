"""An engine of two workers whose sleep and wake fail at every step on either rank; report where that leaves it.

The last fault is one that no engine survives; which one is an argument: ``kill``, ``hang`` or ``resume``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from support.vllm_children.engine import start, tokens

SLEEP_STEPS = ("host.close_admission", "host.drain", "device.synchronize", "memory.save", "memory.unmap")
WAKE_STEPS = ("memory.map", "memory.restore", "memory.digest")
LAST = {"kill": "memory.unmap", "hang": "memory.unmap", "resume": "host.resume"}


class Planted(Exception):
    """The fault."""


def plant(worker: Any, rank: int, step: str, how: str) -> None:
    """Runs in each worker: `step` of the worker of `rank` fails once."""
    from hardpoint_vllm.sleep.seat import seat_of

    if worker.rank != rank:
        return
    part, _, name = step.partition(".")
    lifecycle = seat_of(worker)._lifecycle
    assert lifecycle is not None
    owner = getattr(lifecycle._parts, part)
    original = getattr(owner, name)

    def fail(*args: Any, **kwargs: Any) -> Any:
        setattr(owner, name, original)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "hang":
            time.sleep(3600)
        raise Planted(f"{step} fails here")

    setattr(owner, name, fail)


def main(answer: str, folder: str, tensor: str, pipeline: str, last: str) -> None:
    llm = start(folder, enable_sleep_mode=True, tensor_parallel_size=int(tensor), pipeline_parallel_size=int(pipeline))
    core = llm.llm_engine.engine_core
    found: dict[str, Any] = {"before": tokens(llm), "sleep": {}, "wake": {}}
    llm.sleep(level=1)
    llm.wake_up()
    for step in SLEEP_STEPS:
        for rank in (0, 1):
            llm.collective_rpc(plant, args=(rank, step, "raise"))
            error, seconds = _refusal(llm.sleep, level=1)
            found["sleep"][f"{step} on {rank}"] = [error, seconds, core.is_sleeping(), tokens(llm)]
    for step in WAKE_STEPS:
        for rank in (0, 1):
            llm.sleep(level=1)
            llm.collective_rpc(plant, args=(rank, step, "raise"))
            error, seconds = _refusal(llm.wake_up)
            asleep = core.is_sleeping()
            llm.wake_up()
            found["wake"][f"{step} on {rank}"] = [error, seconds, asleep, core.is_sleeping(), tokens(llm)]
    found["cycles"] = []
    for _ in range(10):
        llm.sleep(level=1)
        llm.wake_up()
        found["cycles"].append(tokens(llm))
    if LAST[last] in WAKE_STEPS or last == "resume":
        llm.sleep(level=1)
        llm.collective_rpc(plant, args=(1, LAST[last], "raise" if last == "resume" else last))
        found["last"] = _refusal(llm.wake_up)
    else:
        llm.collective_rpc(plant, args=(1, LAST[last], last))
        found["last"] = _refusal(llm.sleep, level=1)
    found["again"] = _refusal(llm.wake_up)
    found["health"] = core.engine_core.hardpoint_sleep_health()["failure"]
    Path(answer).write_text(json.dumps(found))
    os._exit(0)  # nothing of this engine is to be waited for


def _refusal(call: Any, *args: Any, **kwargs: Any) -> tuple[str | None, float]:
    begin = time.monotonic()
    try:
        call(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return f"{type(error).__name__}: {error}", time.monotonic() - begin
    return None, time.monotonic() - begin


if __name__ == "__main__":
    main(*sys.argv[1:])
