"""One engine, put to sleep and woken in every way that a user might; report answers, states and refusals."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from support.vllm_children.engine import start, tokens


def main(answer: str, folder: str, tensor: str, pipeline: str, cycles: str) -> None:
    found: dict[str, Any] = {}
    try:
        llm = start(
            folder, enable_sleep_mode=True, tensor_parallel_size=int(tensor), pipeline_parallel_size=int(pipeline)
        )
    except Exception as error:  # noqa: BLE001 - the test looks at it
        Path(answer).write_text(json.dumps({"refused": f"{type(error).__name__}: {error}"}))
        return
    core = llm.llm_engine.engine_core
    found["before"] = tokens(llm)
    found["never_slept"] = _refusal(llm.wake_up)
    found["after_never_slept"] = tokens(llm)
    found["cycles"] = []
    for _ in range(int(cycles)):
        begin = time.monotonic()
        llm.sleep(level=1)
        asleep = core.is_sleeping()
        middle = time.monotonic()
        llm.wake_up()
        end = time.monotonic()
        found["cycles"].append([asleep, core.is_sleeping(), tokens(llm), middle - begin, end - middle])
    llm.sleep(level=1)
    llm.sleep(level=1)
    found["unknown_tag"] = _refusal(llm.wake_up, tags=["nonsense"])
    found["update_while_asleep"] = _refusal(llm.collective_rpc, "reload_weights")
    os.environ["HARDPOINT_SLEEP_REQUESTS"] = "refuse"
    found["request_while_asleep"] = _refusal(tokens, llm)
    llm.wake_up(tags=["weights"])
    found["half_awake"] = core.is_sleeping()
    llm.wake_up(tags=["kv_cache"])
    llm.wake_up()
    found["after_halves"] = [core.is_sleeping(), tokens(llm)]
    llm.sleep(level=2)
    llm.wake_up()
    found["undefined"] = core.is_sleeping()
    llm.collective_rpc("reload_weights")
    found["after_level_2"] = [core.is_sleeping(), tokens(llm)]
    found["alone"] = _refusal(llm.collective_rpc, "sleep")
    Path(answer).write_text(json.dumps(found))


def _refusal(call: Any, *args: Any, **kwargs: Any) -> str | None:
    try:
        call(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return f"{type(error).__name__}: {error}"
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
