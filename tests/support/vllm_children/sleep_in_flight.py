"""One engine that is put to sleep while requests run, in every mode; report their tokens, ends and what was told."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

PROMPTS = ([5, 9, 12, 300, 7], [400, 3, 77], [(7 * n) % 512 for n in range(60)])
COUNT = 150


async def run(folder: str) -> dict[str, Any]:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    options = {"model": folder, "skip_tokenizer_init": True, "enforce_eager": True, "max_model_len": 512, "seed": 0}
    llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**options, max_num_seqs=4, enable_sleep_mode=True))
    found: dict[str, Any] = {}
    found["never_slept"] = [tokens for tokens, _ in await asyncio.gather(*(ask(llm, f"0{n}", n) for n in range(3)))]

    for mode in ("wait", "keep", "abort"):
        running, begun = start(llm, mode)
        await begun
        await llm.sleep(level=1, mode=mode)
        done = [task.done() for task in running]
        asleep = await llm.is_sleeping()
        late = asyncio.ensure_future(ask(llm, f"{mode} late", 0))
        await asyncio.sleep(0.3)
        waits = not late.done()
        await llm.wake_up()
        answers = [await asyncio.wait_for(task, 60) for task in running]
        found[mode] = {"asleep": asleep, "done": done, "answers": answers, "waits": waits, "late": await late}

    os.environ["HARDPOINT_SLEEP_DRAIN_SECONDS"] = "0.05"
    running, begun = start(llm, "missed")
    await begun
    missed = await refusal(llm.sleep(level=1, mode="wait"))
    found["missed"] = {
        "refusal": missed,
        "asleep": await llm.is_sleeping(),
        "answers": [await asyncio.wait_for(task, 60) for task in running],
    }
    found["metrics"] = samples()
    llm.shutdown()
    return found


def start(llm: Any, name: str) -> tuple[list[asyncio.Future[Any]], Awaitable[bool]]:
    """Three requests, and what to wait for until all of them have given tokens."""
    seen: set[str] = set()
    all_begun = asyncio.Event()

    def begun(request: str) -> None:
        seen.add(request)
        if len(seen) == len(PROMPTS):
            all_begun.set()

    tasks = [asyncio.ensure_future(ask(llm, f"{name}{n}", n, begun)) for n in range(len(PROMPTS))]
    return tasks, asyncio.wait_for(all_begun.wait(), 60)


async def ask(llm: Any, name: str, prompt: int, begun: Any = None) -> tuple[list[int], str | None]:
    """Greedy tokens and how they ended; calls `begun` once some have come."""
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0.0, max_tokens=COUNT, min_tokens=COUNT, ignore_eos=True, detokenize=False)
    tokens: list[int] = []
    reason = None
    async for answer in llm.generate({"prompt_token_ids": PROMPTS[prompt]}, sampling, request_id=name):
        tokens, reason = list(answer.outputs[0].token_ids), answer.outputs[0].finish_reason
        if begun is not None and len(tokens) >= 3:
            begun(name)
    return tokens, reason


async def refusal(call: Any) -> list[Any]:
    begin = time.monotonic()
    try:
        await asyncio.wait_for(call, 60)
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return [f"{type(error).__name__}: {error}", getattr(error, "http_status", None), time.monotonic() - begin]
    return [None, None, time.monotonic() - begin]


def samples() -> dict[str, float]:
    """What Prometheus would scrape about sleep."""
    from prometheus_client import REGISTRY

    return {
        " ".join((sample.name, *(f"{key}={value}" for key, value in sample.labels.items()))): sample.value
        for metric in REGISTRY.collect()
        if metric.name.startswith("hardpoint:sleep")
        for sample in metric.samples
        if "le" not in sample.labels
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(asyncio.run(run(*sys.argv[2:]))))
