"""An engine behind vLLM's own routes for sleep and health: what a user of the server is told, and when."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PROMPT = [5, 9, 12, 300, 7]


async def run(folder: str) -> dict[str, Any]:
    import httpx
    from fastapi import FastAPI
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.serve.dev.sleep.api_router import attach_router
    from vllm.entrypoints.serve.exception_handling.register import init_exception_handler
    from vllm.entrypoints.serve.instrumentator.health import router as health
    from vllm.v1.engine.async_llm import AsyncLLM

    llm = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=folder,
            skip_tokenizer_init=True,
            enforce_eager=True,
            max_model_len=512,
            max_num_seqs=4,
            enable_sleep_mode=True,
            seed=0,
        )
    )
    app = FastAPI()
    init_exception_handler(app)
    attach_router(app)
    app.include_router(health)
    app.state.engine_client, app.state.args = llm, SimpleNamespace(log_error_stack=False)
    found: dict[str, Any] = {}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://engine") as http:

        async def post(path: str) -> list[Any]:
            begin = time.monotonic()
            response = await http.post(path, timeout=120)
            return [response.status_code, response.text, time.monotonic() - begin]

        async def state() -> list[Any]:
            asleep = (await http.get("/is_sleeping")).json()["is_sleeping"]
            return [(await http.get("/health")).status_code, asleep]

        found["before"] = await tokens(llm, "a", 12)
        found["running"] = await state()
        found["sleep"] = await post("/sleep?level=1")
        found["asleep"] = await state()
        found["request_while_asleep"] = await refusal(tokens(llm, "b", 12))
        found["unknown_tag"] = await post("/wake_up?tags=nonsense")
        found["still_asleep"] = await state()
        found["wake"] = await post("/wake_up")
        found["awake"] = [*await state(), await tokens(llm, "c", 12)]
        # As another server of the same engine would have it sleep: this front end is not told.
        await llm.engine_core.sleep_async(1, "abort")
        found["unasked_asleep"] = await state()
        found["request_unasked"] = await refusal(tokens(llm, "f", 12))
        await llm.engine_core.wake_up_async()
        found["unasked_awake"] = [*await state(), await tokens(llm, "g", 12)]
        long = asyncio.ensure_future(tokens(llm, "d", 480))
        await asyncio.sleep(0.2)
        found["drain_missed"] = await post("/sleep?level=1&mode=wait")
        found["after_missed_drain"] = await state()
        found["long"] = len(await long)
        found["sleep_when_idle"] = await post("/sleep?level=1&mode=wait")
        found["wake_again"] = await post("/wake_up")
        found["at_last"] = [*await state(), await tokens(llm, "e", 12)]
    llm.shutdown()
    return found


async def tokens(llm: Any, name: str, count: int) -> list[int]:
    """A greedy continuation of `PROMPT`."""
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0.0, max_tokens=count, min_tokens=count, ignore_eos=True, detokenize=False)
    answers = [answer async for answer in llm.generate({"prompt_token_ids": PROMPT}, sampling, request_id=name)]
    return list(answers[-1].outputs[0].token_ids)


async def refusal(call: Any) -> list[Any]:
    begin = time.monotonic()
    try:
        await asyncio.wait_for(call, 20)
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return [f"{type(error).__name__}: {error}", getattr(error, "http_status", None), time.monotonic() - begin]
    return [None, None, time.monotonic() - begin]


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(asyncio.run(run(*sys.argv[2:]))))
