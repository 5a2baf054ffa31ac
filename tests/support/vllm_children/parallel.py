"""Greedy tokens of engines whose ranks are processes of their own: pipeline stages, or ranks that share experts.

As a program it is one data-parallel rank (or the only one); `main` starts as many as it is asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from support.tiny_models import PROMPTS, VOCABULARY
from support.vllm_children.engine import start

DEADLINE = float(os.environ.get("PARALLEL_DEADLINE", "240"))


def main(answer: str, folder: str, options: str = "{}", dp: str = "1", plan: str = "prompts") -> None:
    """Run `dp` ranks over the plan and write what each of them answered; a rank that is late is ended."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    size = int(dp)
    ranks = []
    for rank in range(size):
        group = {
            "VLLM_DP_RANK": str(rank),
            "VLLM_DP_RANK_LOCAL": str(rank),
            "VLLM_DP_SIZE": dp,
            "VLLM_DP_MASTER_IP": "127.0.0.1",
            "VLLM_DP_MASTER_PORT": str(port),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
        command = [sys.executable, "-m", __spec__.name, "rank", f"{answer}.{rank}", folder, options, plan]
        environment = os.environ | (group if size > 1 else {})
        # A session of its own: an engine that dies leaves workers, and those end with it.
        ranks.append(subprocess.Popen(command, env=environment, start_new_session=True))
    found: list[Any] = []
    end = time.monotonic() + DEADLINE
    for rank, process in enumerate(ranks):
        path = Path(f"{answer}.{rank}")
        # A rank may leave its result and not end: engines of a data-parallel group wait for each other.
        while process.poll() is None and not path.exists() and time.monotonic() < end:
            time.sleep(0.2)
        found.append(json.loads(path.read_text()) if path.exists() else {"error": f"exit code {process.poll()}"})
    for process in ranks:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    Path(answer).write_text(json.dumps({"ranks": found}))


def rank_main(answer: str, folder: str, options: str, plan: str) -> None:
    """One rank: its tokens by request, or the error."""
    rank, size = int(os.environ.get("VLLM_DP_RANK", "0")), int(os.environ.get("VLLM_DP_SIZE", "1"))
    found: dict[str, Any] = {"tokens": None, "error": None}
    try:
        found |= Run(start(folder, **json.loads(options)).llm_engine, rank, size).follow(plan)
    except BaseException as error:  # noqa: BLE001 - the test looks at it
        found["error"] = f"{type(error).__name__}: {error}"
    part = Path(f"{answer}.part")
    part.write_text(json.dumps(found))
    part.rename(answer)
    sys.stdout.flush()
    os._exit(0)  # an engine that failed to start may leave threads that wait for its workers


class Run:
    """Requests by a plan that all ranks know; each takes its own."""

    def __init__(self, engine: Any, rank: int, size: int) -> None:
        self._engine, self._rank, self._size = engine, rank, size
        self._tokens: dict[str, list[int]] = {}
        self._gaps: dict[str, list[float]] = {}

    def follow(self, plan: str) -> dict[str, Any]:
        """Tokens by request, and how sure each was (distance of the two best log-probs), of the parts of `plan`."""
        steps = sum(getattr(self, f"_{part}")() for part in plan.split(","))
        return {"tokens": self._tokens, "gaps": self._gaps, "steps": steps}

    def _prompts(self) -> int:
        """The fixed prompts, all at once; data-parallel ranks take them in turn, so that their loads differ."""
        for number, prompt in enumerate(PROMPTS):
            if number % self._size == self._rank:
                self._add(f"prompt {number}", list(prompt), 12)
        return self._drain()

    def _idle(self) -> int:
        """One request for the last rank, none for the others."""
        if self._rank == self._size - 1:
            self._add("alone", [9, 8, 7, 6, 5], 10)
        return self._drain()

    def _arrivals(self) -> int:
        """Requests that come while others run, more on some ranks, of all lengths; some are aborted."""
        made = 0
        steps = int(os.environ.get("PARALLEL_STEPS", "200"))
        for step in range(steps):
            if step % 9 == 0:
                owner = 0 if made % 3 else self._size - 1
                if owner == self._rank:
                    length = 1 + (7 * made) % 40
                    name = f"aborted {made}" if made % 5 == 4 else f"arrival {made}"
                    self._add(name, [(31 * made + n) % VOCABULARY for n in range(length)], 3 + made % 7)
                made += 1
            if step % 9 == 2 and made % 5 == 0:
                self._engine.abort_request([f"aborted {made - 1}"])  # nothing on a rank that does not have it
            if self._engine.has_unfinished_requests():
                self._step()
        return steps + self._drain()

    def _drain(self) -> int:
        steps = 0
        while self._engine.has_unfinished_requests():
            self._step()
            steps += 1
        return steps

    def _add(self, name: str, prompt: list[int], count: int) -> None:
        from vllm import SamplingParams

        sampling = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True, detokenize=False, logprobs=2)
        self._engine.add_request(name, {"prompt_token_ids": prompt}, sampling)

    def _step(self) -> None:
        for output in self._engine.step():
            if output.finished and not output.request_id.startswith("aborted"):
                answer = output.outputs[0]
                best = [sorted((each.logprob for each in at.values()), reverse=True) for at in answer.logprobs]
                self._tokens[output.request_id] = list(answer.token_ids)
                self._gaps[output.request_id] = [first - second for first, second, *_ in best]


if __name__ == "__main__":
    if sys.argv[1] == "rank":
        rank_main(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
