"""Engines of which one rank dies or stalls in the middle of a step, and what the others say of it.

    python -m support.vllm_children.parallel_faults ANSWER MODEL dp|tp kill|stall

``dp``: two processes, one data-parallel rank each; ``tp``: one engine with two tensor-parallel workers. Experts are
spread over both. The rank to fail is the last one; it ends or stops itself inside a collective of a decode step.
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

from support.tiny_models import PROMPTS
from support.vllm_children.engine import start

LIMIT = 200.0
CALLS = 5  # collectives of that kind that go well before the fault


def main(answer: str, folder: str, layout: str, fault: str) -> None:
    """Run the ranks, collect what the survivors wrote, end everything."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    size = 2 if layout == "dp" else 1
    processes = []
    for rank in range(size):
        group = {
            "VLLM_DP_RANK": str(rank),
            "VLLM_DP_RANK_LOCAL": str(rank),
            "VLLM_DP_SIZE": str(size),
            "VLLM_DP_MASTER_IP": "127.0.0.1",
            "VLLM_DP_MASTER_PORT": str(port),
        }
        command = [sys.executable, "-m", __spec__.name, "rank", f"{answer}.{rank}", folder, layout, fault]
        environment = os.environ | (group if size > 1 else {})
        processes.append(subprocess.Popen(command, env=environment, start_new_session=True))
    path, end = Path(f"{answer}.0"), time.monotonic() + LIMIT
    while not path.exists() and processes[0].poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    found = json.loads(path.read_text()) if path.exists() else {"error": f"no answer, exit code {processes[0].poll()}"}
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    Path(answer).write_text(json.dumps(found))


def rank_main(answer: str, folder: str, layout: str, fault: str) -> None:
    """One process of the run: serves until the fault, and writes what it saw and after how many seconds."""
    options: dict[str, Any] = {"enable_expert_parallel": True}
    if layout == "tp":
        options["tensor_parallel_size"] = 2
    last = os.environ.get("VLLM_DP_RANK") == "1"
    llm = start(folder, **options)
    engine = llm.llm_engine
    # Workers are processes of their own in both layouts: the fault is planted in the last of them.
    if layout == "tp" or last:
        llm.collective_rpc(arm_worker, args=(layout, fault))
    add(engine)
    began, error = time.monotonic(), None
    try:
        while engine.has_unfinished_requests():
            before = time.monotonic()
            engine.step()
            began = max(began, before)
    except BaseException as caught:  # noqa: BLE001 - the test looks at it
        error = f"{type(caught).__name__}: {caught}"
    part = Path(f"{answer}.part")
    part.write_text(json.dumps({"error": error, "seconds": time.monotonic() - began}))
    part.rename(answer)
    sys.stdout.flush()
    os._exit(0)


def add(engine: Any) -> None:
    """Requests that go on for a while."""
    from vllm import SamplingParams

    for number, prompt in enumerate(PROMPTS):
        sampling = SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True, detokenize=False)
        engine.add_request(str(number), {"prompt_token_ids": list(prompt)}, sampling)


def arm_worker(worker: Any, layout: str, fault: str) -> None:
    """In each worker of an engine; with tensor parallelism the last one fails, else the only one."""
    if layout == "dp":
        arm("all_gatherv", fault)
    elif worker.rank == 1:
        arm("all_reduce", fault)


def arm(name: str, fault: str) -> None:
    """The `CALLS`-th collective `name` from now on is where this process dies or stops, before it takes part."""
    from hardpoint_vllm.parallel.cpu_communicator import HardpointCpuCommunicator

    stock = getattr(HardpointCpuCommunicator, name)
    left = [CALLS]

    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL if fault == "kill" else signal.SIGSTOP)
        return stock(self, *args, **kwargs)

    setattr(HardpointCpuCommunicator, name, failing)


if __name__ == "__main__":
    if sys.argv[1] == "rank":
        rank_main(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
