"""Two tensor-parallel workers: both take an update, or neither does, also when one of them cannot load it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from support.vllm_children.engine import bits, start, tokens
from support.vllm_children.sync import Trainer, break_load, join, mend_load, update


def main(answer: str, zero: str, one: str, two: str, path: str) -> None:
    from vllm.config import WeightTransferConfig

    llm = start(zero, tensor_parallel_size=2, weight_transfer_config=WeightTransferConfig(backend="hardpoint"))
    trainers = [Trainer(2, path)]
    found: dict[str, Any] = {"before": tokens(llm)}
    try:
        join(llm, trainers[0])
        found["good"] = [update(llm, trainers[0], one, 1) | {"tokens": tokens(llm)}]
        old = llm.collective_rpc(_bits)
        found["missing"] = update(llm, trainers[0], two, 2, "missing expert") | {
            "untouched": llm.collective_rpc(_bits) == old
        }
        llm.collective_rpc(_break, args=(1,))
        found["one fails"] = update(llm, trainers[0], two, 2) | {"untouched": llm.collective_rpc(_bits) == old}
        llm.collective_rpc(_mend)
        found["after one failed"] = tokens(llm)
        found["good"].append(update(llm, trainers[0], two, 3) | {"tokens": tokens(llm)})
        old = llm.collective_rpc(_bits)
        found["killed"] = update(llm, trainers[0], one, 4, "die") | {"untouched": llm.collective_rpc(_bits) == old}
        trainers.append(Trainer(2, path))
        join(llm, trainers[1])
        found["good"].append(update(llm, trainers[1], one, 5) | {"tokens": tokens(llm)})
        synced = llm.collective_rpc(_bits)
        llm.collective_rpc("reload_weights", kwargs={"weights_path": one})
        found["as from disk"] = llm.collective_rpc(_bits) == synced
        found["epochs"] = llm.collective_rpc(_epoch)
        found["version"] = llm.get_weight_version()
    finally:
        for trainer in trainers:
            trainer.close()
    Path(answer).write_text(json.dumps(found))


def _bits(worker: Any) -> dict[str, str]:
    return bits(worker.get_model())


def _epoch(worker: Any) -> int:
    return worker.weight_transfer_engine.epoch


def _break(worker: Any, rank: int) -> None:
    """Make the load fail half way on one rank."""
    if worker.rank == rank:
        break_load(worker.get_model())


def _mend(worker: Any) -> None:
    mend_load(worker.get_model())


if __name__ == "__main__":
    main(*sys.argv[1:])
