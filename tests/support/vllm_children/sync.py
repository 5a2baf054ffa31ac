"""One engine through good, bad, torn and repeated updates from separate trainer processes; report what it served."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from support.vllm_children.engine import bits, start, tokens, worker_of

DEADLINE = 4.0
FAULTS = (
    "missing expert",
    "missing k_proj",
    "missing layer",
    "unknown name",
    "half the experts",
    "twice",
    "half the rows",
    "half the columns",
    "transposed",
    "wider dtype",
    "nan",
    "nothing",
    "raise",
    "truncated",
)


class Trainer:
    """A trainer process that is told what to publish."""

    def __init__(self, receivers: int = 1, path: str = "whole") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "support.vllm_children.trainer", str(receivers), str(DEADLINE), path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.init_info: dict[str, Any] = json.loads(self._line())

    def tell(self, **order: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def heard(self) -> dict[str, Any]:
        return json.loads(self._line() or '{"dead": true}')

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


def join(llm: Any, trainer: Trainer) -> None:
    trainer.tell(do="connect")
    llm.init_weight_transfer_engine({"init_info": trainer.init_info})
    trainer.heard()


def update(
    llm: Any, trainer: Trainer | None, folder: str, number: int, do: str = "good", mode: str = "auto", **info: Any
) -> dict[str, Any]:
    """One session, as an RL loop has it; what either side said, and how long the engine took."""
    started = time.monotonic()
    if trainer is not None:
        trainer.tell(do=do, folder=folder, epoch=number, mode=mode)
    error = None
    try:
        llm.start_weight_update()
        llm.update_weights({"update_info": info})
        llm.finish_weight_update()
    except Exception as caught:  # noqa: BLE001 - the test looks at it
        error = f"{type(caught).__name__}: {caught}"
    seconds = time.monotonic() - started
    return {"error": error, "seconds": seconds, "trainer": trainer.heard() if trainer is not None else None}


def main(answer: str, zero: str, one: str, two: str, path: str) -> None:
    from vllm.config import WeightTransferConfig

    llm = start(zero, weight_transfer_config=WeightTransferConfig(backend="hardpoint"))
    model = worker_of(llm).get_model()
    addresses = {name: param.data_ptr() for name, param in model.named_parameters()}
    trainers = [Trainer(path=path)]
    found: dict[str, Any] = {"before": tokens(llm)}
    try:
        found["not joined"] = update(llm, None, zero, 0)
        join(llm, trainers[0])
        found["good"] = []
        for epoch, folder in ((1, one), (2, two)):
            said = update(llm, trainers[0], folder, epoch)
            found["good"].append(said | {"tokens": tokens(llm), "version": llm.get_weight_version()})
        old = bits(model)
        found["faults"] = {}
        for fault in FAULTS:
            said = update(llm, trainers[0], one, 3, fault)
            found["faults"][fault] = said | {"untouched": bits(model) == old}
        found["replay"] = update(llm, trainers[0], one, 2) | {"untouched": bits(model) == old}
        found["wrong epoch"] = update(llm, trainers[0], one, 3, epoch=9) | {"untouched": bits(model) == old}
        found["after faults"] = tokens(llm)
        found["failed commit"] = _failed_commit(llm, model, trainers[0], one) | {"untouched": bits(model) == old}
        found["after failed commit"] = tokens(llm)
        found["recovered"] = update(llm, trainers[0], one, 4) | {"tokens": tokens(llm)}
        old = bits(model)
        found["nobody sends"] = update(llm, None, one, 5) | {"untouched": bits(model) == old}
        trainers[0].close()

        trainers.append(Trainer(path=path))
        join(llm, trainers[1])
        found["killed"] = update(llm, trainers[1], two, 5, "die") | {"untouched": bits(model) == old}
        found["after killed"] = tokens(llm)
        llm.start_weight_update()  # by a trainer that dies before it finishes

        trainers.append(Trainer(path=path))
        join(llm, trainers[2])
        found["after death"] = update(llm, trainers[2], two, 6) | {
            "tokens": tokens(llm),
            "version": llm.get_weight_version(),
        }
        found["stale caches"] = _without_reset(llm, trainers[2], one)
        if path == "plan":
            from support.vllm_children.sync_modes import modes

            found["modes"] = modes(llm, trainers[2], one, two)
        found["addresses_stay"] = addresses == {name: param.data_ptr() for name, param in model.named_parameters()}
    finally:
        for trainer in trainers:
            trainer.close()
    Path(answer).write_text(json.dumps(found))


def _failed_commit(llm: Any, model: Any, trainer: Trainer, folder: str) -> dict[str, Any]:
    """An update that all took and verified, whose load then breaks half way through the live model."""
    break_load(model)
    try:
        return update(llm, trainer, folder, 3)
    finally:
        mend_load(model)


def break_load(model: Any) -> None:
    """Make the next loads fail half way: whole tensors by the model's own loaders, planned ones by ours."""
    from hardpoint_vllm.weight_transfer.planned import reload

    original = model.load_weights

    def load_weights(weights: Any) -> Any:
        pairs = list(weights)
        original(iter(pairs[: len(pairs) // 2]))
        raise MemoryError("no room for the second half")

    model.load_weights = load_weights
    put, done = reload._put, [0]

    def broken(param: Any, loaded_weight: Any) -> None:
        done[0] += not param.is_meta
        if done[0] > 8:
            raise MemoryError("no room for the second half")
        put(param, loaded_weight)

    reload._put, reload._whole_put = broken, put  # type: ignore[attr-defined]


def mend_load(model: Any) -> None:
    from hardpoint_vllm.weight_transfer.planned import reload

    vars(model).pop("load_weights", None)
    if hasattr(reload, "_whole_put"):
        reload._put = reload._whole_put


def _without_reset(llm: Any, trainer: Trainer, folder: str) -> dict[str, Any]:
    """The control: the same update where the core's part is left out."""
    from hardpoint_vllm.weight_transfer import core_hook

    after_commit, core_hook._after_commit = core_hook._after_commit, lambda *_: None
    try:
        return update(llm, trainer, folder, 7) | {"tokens": tokens(llm)}
    finally:
        core_hook._after_commit = after_commit


if __name__ == "__main__":
    main(*sys.argv[1:])
