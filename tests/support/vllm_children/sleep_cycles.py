"""An engine that sleeps and wakes many times; report how often its tokens were those of before, and what it cost."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def main(answer: str, folder: str, tensor: str, pipeline: str, cycles: str, eager: str) -> None:
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=folder,
        skip_tokenizer_init=True,
        enforce_eager=eager == "eager",
        max_model_len=512,
        max_num_seqs=4,
        gpu_memory_utilization=0.3,
        disable_log_stats=True,
        seed=0,
        enable_sleep_mode=True,
        tensor_parallel_size=int(tensor),
        pipeline_parallel_size=int(pipeline),
    )
    sampling = SamplingParams(temperature=0.0, max_tokens=16, min_tokens=16, ignore_eos=True, detokenize=False)

    def tokens(cycle: int) -> list[list[int]]:
        """One prompt that is always the same and two that are not."""
        prompts = [[5, 9, 12, 300, 7], [(7 * n + cycle) % 512 for n in range(40)], [cycle + 1, 3, 77]]
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        return [list(done.outputs[0].token_ids) for done in llm.generate(asked, sampling, use_tqdm=False)]

    core = llm.llm_engine.engine_core
    found: dict[str, Any] = {"equal": [], "states": [], "sleep": [], "wake": [], "error": None}
    try:
        before = [tokens(cycle) for cycle in range(int(cycles))]
        for cycle in range(int(cycles)):
            begin = time.monotonic()
            llm.sleep(level=1)
            found["sleep"].append(time.monotonic() - begin)
            asleep, begin = core.is_sleeping(), time.monotonic()
            llm.wake_up()
            found["wake"].append(time.monotonic() - begin)
            found["states"].append([asleep, core.is_sleeping()])
            found["equal"].append(tokens(cycle) == before[cycle])  # no settle delay
    except Exception as error:  # noqa: BLE001 - stock may end here, and the test says so
        found["error"] = f"{type(error).__name__}: {error}"
    Path(answer).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
