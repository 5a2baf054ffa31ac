"""The filter of generate's arguments under the wrappers themselves: PEFT, DDP, FSDP2 and torch.compile, nested.

Their `forward` takes ``*args, **kwargs``: read there, either everything would be dropped or every data field let in.
DeepSpeed's engine is not installed in this environment; `test_model_kwargs` has what it looks like from outside.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from hardpoint_trainers import base_model, generate_kwargs
from support.trainer_models import tiny_trainer_moe

peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'hardpoint[dev]'")
DATA = {"solution": ["42"], "task_type": ["math"], "messages": [[]], "args": (), "kwargs": {}, "labels_text": "x"}


@pytest.fixture(scope="module", autouse=True)
def _one_rank() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def lora(model: Any) -> Any:
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))


def lora_on_experts(model: Any) -> Any:
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "gate_proj", "up_proj"]))


def prompt_tuning(model: Any) -> Any:
    return peft.get_peft_model(model, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))


def value_head(model: Any) -> Any:
    """A wrapper of nobody's in particular, as trainers write them: the model under `module`."""

    class Wrapper(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = model

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.module(*args, **kwargs)

    return Wrapper()


def sharded(model: Any) -> Any:
    # By itself torch takes the mesh of an accelerator, and the simulator of other tests in this process is one.
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    return model


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "peft": lora,
    "peft on experts": lora_on_experts,
    "peft prompt tuning": prompt_tuning,
    "ddp": DistributedDataParallel,
    "fsdp2": sharded,
    "compile": torch.compile,
    "ddp of peft": lambda model: DistributedDataParallel(lora(model)),
    "compile of ddp of peft": lambda model: torch.compile(DistributedDataParallel(lora(model))),
    "fsdp2 of peft": lambda model: sharded(lora(model)),
    "two wrappers of peft": lambda model: value_head(value_head(lora(model))),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
def test_what_the_model_takes_stays_and_data_fields_go(wrap: Callable[[Any], Any]) -> None:
    model = tiny_trainer_moe()
    wrapped = wrap(model)
    ids = torch.tensor([[1, 2, 3]])
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": 2,
        "do_sample": False,
        "output_router_logits": False,
    }
    kept = generate_kwargs(wrapped, {**batch, **DATA})
    assert list(kept) == list(batch)
    assert base_model(wrapped) is model
    if wrapped is model or not isinstance(wrapped, FSDPModule):  # hooks that gather the shards sit on the outermost
        assert model.generate(**kept).shape == (1, 5)


def test_the_wrappers_say_nothing_by_themselves() -> None:
    """If this fails, a wrapper names its model's arguments, and could be asked itself."""
    for wrap in (lora, DistributedDataParallel):
        kinds = {
            parameter.kind for parameter in inspect.signature(wrap(tiny_trainer_moe()).forward).parameters.values()
        }
        assert kinds == {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
