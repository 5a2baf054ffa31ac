"""Modes of path ``plan`` in an engine that serves: good and bad updates in each, and what is there afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from hardpoint.communicator.through_host import through_host
from hardpoint.device import HostDevice
from hardpoint.sync import TensorSpec
from hardpoint.sync.transaction import Room
from hardpoint_trainers import WeightPublisher
from hardpoint_trainers.adapters.engines import LocalEngine
from hardpoint_trainers.adapters.route import Route
from support.tiny_models import PROMPTS, checkpoint
from support.vllm_children.engine import bits, tokens, worker_of
from support.vllm_children.sync import DEADLINE, Trainer, break_load, mend_load, update


def modes(llm: Any, trainer: Trainer, one: str, two: str) -> dict[str, Any]:
    """Epochs from 8 on. What serves at first is model `one`."""
    model = worker_of(llm).get_model()
    gate = worker_of(llm).weight_transfer_engine._planned.gate
    chosen: list[str] = []
    gate._log = chosen.append
    found: dict[str, Any] = {"two trainers": _two_trainers(llm, trainer, two)}
    found["undo"] = {"good": update(llm, trainer, one, 9, mode="undo") | {"tokens": tokens(llm)}}
    old = bits(model)
    for fault in ("missing expert", "nan", "raise", "truncated", "commit"):
        number = 10 if fault == "raise" else 11
        if fault == "commit":
            break_load(model)
        said = update(llm, trainer, two, number, fault, mode="undo")
        mend_load(model)
        found["undo"][fault] = said | {"untouched": bits(model) == old, "tokens": tokens(llm)}
    room, gate._room = gate._room, lambda: Room(0, 1 << 40)
    found["auto without room"] = update(llm, trainer, two, 12) | {"tokens": tokens(llm), "chosen": chosen[-1]}
    gate._room = lambda: Room(0, 0)
    old = bits(model)
    found["no room"] = update(llm, trainer, one, 13) | {"untouched": bits(model) == old}
    gate._room = room
    found["auto"] = update(llm, trainer, one, 13) | {"chosen": chosen[-1]}
    found["off"] = {"good": update(llm, trainer, two, 14, mode="off") | {"tokens": tokens(llm)}}
    found["off"]["refused"] = update(llm, trainer, one, 15, "missing expert", mode="off") | {"tokens": tokens(llm)}
    old = bits(model)
    said = update(llm, trainer, one, 15, mode="off", epoch=99)
    found["off"]["wrong epoch"] = said | {"untouched": bits(model) == old, "tokens": tokens(llm)}
    for fault, number, next_mode in (("truncated", 15, "shadow"), ("commit", 17, "off")):
        if fault == "commit":
            break_load(model)
        said = update(llm, trainer, one, number, fault, mode="off")
        mend_load(model)
        found["off"][fault] = said | {"served": _served(llm)}
        again = update(llm, trainer, one, number + 1, mode=next_mode)
        # Requests that the stopped engine took are answered now as well, before these.
        found["off"][f"after {fault}"] = again | {"tokens": tokens(llm)[-len(PROMPTS) :]}
    info = trainer.init_info | {"drafter": True}
    found["no drafter"] = _joined(llm, info)
    found["still joined"] = update(llm, trainer, two, 19) | {"tokens": tokens(llm)}
    found["colocated"] = _colocated(llm, one, 19) | {"tokens": tokens(llm), "version": llm.get_weight_version()}
    return found


class Streamed:
    """A checkpoint that makes one tensor at a time, as a trainer's gathered weights do."""

    def __init__(self, folder: str) -> None:
        self._tensors = checkpoint(Path(folder))
        self.specs = tuple(TensorSpec.of(name, tensor) for name, tensor in self._tensors.items())

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in self._tensors.items():
            yield name, tensor.clone()


def _colocated(llm: Any, folder: str, epoch: int) -> dict[str, Any]:
    """The trainer in the engine's own process, as TRL and ms-swift have it, through host memory."""
    publisher = WeightPublisher(deadline=DEADLINE, bucket_bytes=1 << 16, communicator=through_host(HostDevice()))
    route = Route(publisher, ((LocalEngine(llm), 1),), deadline=DEADLINE, alone=True, terms={"transport": "host"})
    route.epoch = epoch
    try:
        outcome = route.send(Streamed(folder))
        return {"error": None, "committed": outcome is not None and outcome.committed}
    except Exception as caught:  # noqa: BLE001 - the test looks at it
        return {"error": str(caught), "committed": False}
    finally:
        route.close()


def _joined(llm: Any, init_info: dict[str, Any]) -> str:
    """What an engine says that refuses to join."""
    try:
        llm.init_weight_transfer_engine({"init_info": init_info})
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return str(error)
    return ""


def _served(llm: Any) -> str:
    """What an engine says that must not serve."""
    try:
        tokens(llm, 1)
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return str(error)
    return ""


def _two_trainers(llm: Any, first: Trainer, folder: str) -> dict[str, Any]:
    """A second trainer wants in while the first one's update streams."""
    second = Trainer(path="plan")
    try:
        first.tell(do="slow", folder=folder, epoch=8, mode="shadow")
        engine = worker_of(llm).weight_transfer_engine
        until = time.monotonic() + 10
        while engine._planned.under_way is None and time.monotonic() < until:
            time.sleep(0.01)
        error = ""
        try:
            llm.init_weight_transfer_engine({"init_info": second.init_info})
        except Exception as caught:  # noqa: BLE001 - the test looks at it
            error = str(caught)
        llm.start_weight_update()
        llm.update_weights({"update_info": {}})
        llm.finish_weight_update()
        said = {"error": error, "trainer": first.heard(), "tokens": tokens(llm)}
    finally:
        second.close()
    return said
