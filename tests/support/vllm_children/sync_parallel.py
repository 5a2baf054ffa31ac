"""An engine of several workers (or a data-parallel group of engines) through updates by a plan; what they hold.

As a program it is one data-parallel rank (or the only one); `main` starts as many as it is asked for, and the trainer.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from support.vllm_children.engine import bits, start
from support.vllm_children.parallel import Run

DEADLINE = 20.0
STARTED = 200.0  # seconds until the engines are there
STEPS = ("good", "missing expert", "nan", "again")


def main(answer: str, zero: str, one: str, options: str, dp: str, workers: str) -> None:
    """Updates to model `one`, then two broken ones, then back to `zero`, of engines that started on `zero`."""
    trainer = subprocess.Popen(
        [sys.executable, "-m", "support.vllm_children.trainer", workers, str(DEADLINE), "plan"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert trainer.stdin is not None and trainer.stdout is not None
    info = trainer.stdout.readline()
    ranks = _start(answer, zero, info, options, int(dp))
    said: dict[str, Any] = {}
    try:
        orders = [{"do": "connect"}]
        for number, do in enumerate(STEPS, 1):
            how = do if do in ("missing expert", "nan") else "good"
            orders.append({"do": how, "folder": zero if do == "again" else one, "epoch": number})
        for name, order in zip(("connect", *STEPS), orders, strict=True):
            _all(answer, ranks, name, STARTED if name == "connect" else 60.0)
            trainer.stdin.write(json.dumps(order) + "\n")
            trainer.stdin.flush()
            said[name] = json.loads(trainer.stdout.readline() or '{"dead": true}')
        _all(answer, ranks, "done", 60.0)
        found = [json.loads(Path(f"{answer}.{rank}.done").read_text()) for rank in range(len(ranks))]
    except TimeoutError as error:
        found = [{"error": str(error)}]
    finally:
        trainer.kill()
        trainer.wait()
        for process in ranks:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    Path(answer).write_text(json.dumps({"ranks": found, "trainer": said}))


def _start(answer: str, folder: str, info: str, options: str, size: int) -> list[subprocess.Popen[bytes]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = []
    for rank in range(size):
        group = {
            "VLLM_DP_RANK": str(rank),
            "VLLM_DP_RANK_LOCAL": str(rank),
            "VLLM_DP_SIZE": str(size),
            "VLLM_DP_MASTER_IP": "127.0.0.1",
            "VLLM_DP_MASTER_PORT": str(port),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
        command = [sys.executable, "-m", __spec__.name, "rank", f"{answer}.{rank}", folder, info, options]
        environment = os.environ | (group if size > 1 else {})
        ranks.append(subprocess.Popen(command, env=environment, start_new_session=True))
    return ranks


def _all(answer: str, ranks: list[subprocess.Popen[bytes]], step: str, seconds: float) -> None:
    """Return when every rank is at `step`."""
    end = time.monotonic() + seconds
    for rank, process in enumerate(ranks):
        while not Path(f"{answer}.{rank}.{step}").exists():
            if process.poll() is not None:
                raise TimeoutError(f"data-parallel rank {rank} ended with {process.poll()} before {step!r}")
            if time.monotonic() > end:
                raise TimeoutError(f"data-parallel rank {rank} did not come to {step!r} within {seconds:g} s")
            time.sleep(0.05)


def rank_main(answer: str, folder: str, info: str, options: str) -> None:
    """One rank of the group; `answer` is the beginning of the names of the files that say how far it is."""
    from vllm.config import WeightTransferConfig

    rank, size = int(os.environ.get("VLLM_DP_RANK", "0")), int(os.environ.get("VLLM_DP_SIZE", "1"))
    found: dict[str, Any] = {"error": None}

    def at(step: str) -> None:
        part = Path(f"{answer}.part")
        part.write_text(json.dumps(found))
        part.rename(f"{answer}.{step}")

    try:
        llm = start(folder, weight_transfer_config=WeightTransferConfig(backend="hardpoint"), **json.loads(options))
        found["before"] = Run(llm.llm_engine, rank, size).follow("prompts")
        at("connect")
        llm.init_weight_transfer_engine({"init_info": json.loads(info)})
        for number, step in enumerate(STEPS, 1):
            old = llm.collective_rpc(_bits)
            at(step)
            error = None
            try:
                llm.start_weight_update()
                llm.update_weights({"update_info": {"start_deadline": 60.0, "epoch": number}})
                llm.finish_weight_update()
            except Exception as caught:  # noqa: BLE001 - the test looks at it
                error = f"{type(caught).__name__}: {caught}"
            changed = [before != after for before, after in zip(old, llm.collective_rpc(_bits), strict=True)]
            found[step] = {"error": error, "changed": changed} | Run(llm.llm_engine, rank, size).follow("prompts")
        found["holds"] = llm.collective_rpc(_holds)
        found["version"] = llm.get_weight_version()
    except BaseException as error:  # noqa: BLE001 - the test looks at it
        found["error"] = f"{type(error).__name__}: {error}"
    for step in ("connect", *STEPS, "done"):
        at(step)
    sys.stdout.flush()
    os._exit(0)  # engines of a data-parallel group wait for each other


def _bits(worker: Any) -> dict[str, str]:
    return bits(worker.get_model())


def _holds(worker: Any) -> dict[str, Any]:
    """By the plan: experts whose bytes this worker is sent, those bytes, and all its bytes."""
    from hardpoint.sync.dtypes import ITEMSIZE

    planned = worker.weight_transfer_engine._planned
    plan, rank = planned.participant.plan, planned.rank
    experts: set[int] = set()
    layers: set[int] = set()
    nbytes = 0
    for of in plan.destinations_for(rank):
        for part in of.parts:
            for name in part.tensors:
                if ".layers." in name:
                    layers.add(int(name.split(".layers.")[1].split(".")[0]))
                if ".experts." in name:
                    experts.add(int(name.split(".experts.")[1].split(".")[0]))
                    nbytes += math.prod(part.sizes) * ITEMSIZE[of.dtype]
    return {
        "experts": sorted(experts),
        "layers": sorted(layers),
        "expert bytes": nbytes,
        "received": worker.weight_transfer_engine.received_bytes,
        "on the wire": _expert_bytes_received(plan, rank),
    }


def _expert_bytes_received(plan: Any, rank: int) -> int:
    """Of the buckets that this rank takes: bytes that come from tensors of experts."""
    names = [spec.name for spec in plan.offer.tensors]
    return sum(
        piece.move.nbytes
        for bucket in plan.buckets_for(rank)
        for piece in bucket.pieces
        if all(".experts." in names[source] for source in piece.move.sources)
    )


if __name__ == "__main__":
    if sys.argv[1] == "rank":
        rank_main(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
