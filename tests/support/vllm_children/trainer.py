"""A trainer process without vLLM: says where it is met, then publishes what it is told to, one JSON line each way."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from hardpoint.errors import HardpointError
from hardpoint.sync import Progress, TensorSpec
from hardpoint.sync.transaction import Mode
from hardpoint_trainers.publisher import WeightPublisher
from support.tiny_models import checkpoint

EXPERT = "model.layers.1.mlp.experts.3.gate_proj.weight"


def main(receivers: str, deadline: str, path: str) -> None:
    publisher = WeightPublisher(receivers=int(receivers), deadline=float(deadline), bucket_bytes=1 << 16, path=path)
    _say(publisher.init_info())
    for line in sys.stdin:
        order: dict[str, Any] = json.loads(line)
        try:
            if order["do"] == "connect":
                publisher.connect()
                _say({"init_info": publisher.init_info()})
                continue
            tensors = change(checkpoint(Path(order["folder"])), order["do"])
            publisher.mode = Mode(order.get("mode", "auto"))
            streams = path == "whole" or order["epoch"] % 2 == 1  # by a plan, in turn: all there, or one at a time
            outcome = publisher.publish(
                _feed(tensors, order["do"]) if streams else tensors,
                epoch=order["epoch"],
                manifest=[TensorSpec.of(name, tensor) for name, tensor in tensors.items()],
                progress=None if streams else functools.partial(_strike, order["do"]),
            )
            _say({"committed": outcome.committed})
        except HardpointError as error:
            _say({"committed": False, "error": str(error)})


def change(tensors: dict[str, torch.Tensor], how: str) -> dict[str, torch.Tensor]:
    """`tensors` as a trainer with that fault would send them."""
    gate = tensors[EXPERT]
    if how == "missing expert":
        del tensors[EXPERT]
    elif how == "missing k_proj":
        del tensors["model.layers.0.self_attn.k_proj.weight"]
    elif how == "missing layer":
        tensors = {name: tensor for name, tensor in tensors.items() if ".layers.1." not in name}
    elif how == "unknown name":
        tensors["model.layers.0.mlp.experts.99.gate_proj.weight"] = gate.clone()
    elif how == "half the rows":
        tensors[EXPERT] = gate[: gate.shape[0] // 2].clone()
    elif how == "transposed":
        tensors[EXPERT] = gate.t().contiguous()
    elif how == "wider dtype":
        tensors[EXPERT] = gate.float()
    elif how == "nan":
        tensors[EXPERT] = gate.clone().index_fill_(0, torch.tensor([3]), float("nan"))
    elif how == "half the columns":
        tensors[EXPERT] = gate[:, : gate.shape[1] // 2].contiguous()
    elif how == "half the experts":
        tensors = {name: of for name, of in tensors.items() if not any(f".experts.{n}." in name for n in range(4, 8))}
    elif how == "twice":
        tensors["base_model.model." + EXPERT] = gate.clone()
    elif how == "nothing":
        tensors = {}
    return tensors


def _strike(how: str, at: Progress) -> None:
    """Tensors that are all there before the first leaves: what goes wrong goes wrong on the wire."""
    if how == "slow":
        time.sleep(0.2)
    if at.buckets_done == at.buckets_total // 2:
        if how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "raise":
            raise HardpointError("the trainer ran out of memory")


def _feed(tensors: dict[str, torch.Tensor], how: str) -> Iterator[tuple[str, torch.Tensor]]:
    for number, (name, tensor) in enumerate(tensors.items()):
        if number == len(tensors) // 2:
            if how == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "raise":
                raise HardpointError("the trainer ran out of memory")
            if how == "truncated":
                return
        yield name, tensor


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
