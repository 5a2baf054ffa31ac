"""One rank of a real vLLM model, filled by vLLM's own loaders; and the same parameters, filled by a plan."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from hardpoint.moe import LayoutDescriptor
from hardpoint.sync.plan import (
    Coordinates,
    ModelSpec,
    Offer,
    Planner,
    Receiver,
    Rule,
    Sources,
    Storages,
    make_plan,
)
from hardpoint.sync.plan.blocks import attention, embeddings, moe, norms
from hardpoint.sync.plan.execute import new_buffer
from hardpoint_vllm.weight_transfer.first_load import FirstLoad, record_of, watch
from hardpoint_vllm.weight_transfer.placement import destinations
from support.tiny_models import VOCABULARY, checkpoint


def main(answer: str, model: str, port: str, rank: str, world: str, experts: str) -> None:
    at, size = int(rank), int(world)
    tensors = checkpoint(Path(model))
    loaded, first = load(model, tensors, port, at, size, experts == "ep")
    traced = trace(tensors, loaded, first)
    planned = plan(tensors, loaded, at, size, experts == "ep")
    found = {
        "parameters": len(planned),
        "traced": len(traced),
        "traced differ": [
            name for name, of in traced.items() if not torch.equal(of.view(torch.uint8), loaded[name].view(torch.uint8))
        ],
        "differ": [
            name
            for name, of in planned.items()
            if not torch.equal(of.view(torch.uint8), loaded[name].view(torch.uint8))
        ],
        "not planned": sorted(name for name in loaded.keys() - planned.keys() if not name.endswith("_scale")),
    }
    Path(answer).write_text(json.dumps(found))


def load(
    model: str, tensors: Mapping[str, torch.Tensor], port: str, rank: int, world: int, experts: bool
) -> tuple[dict[str, torch.Tensor], FirstLoad]:
    """Parameters of this rank after ``load_weights``, and what was seen of it."""
    from vllm.config import set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader.utils import initialize_model

    config = EngineArgs(
        model=model,
        dtype="bfloat16",
        enforce_eager=True,
        tensor_parallel_size=world,
        enable_expert_parallel=experts,
        skip_tokenizer_init=True,
        max_model_len=128,
        distributed_executor_backend="external_launcher" if world > 1 else None,
    ).create_engine_config()
    with set_current_vllm_config(config):
        init_distributed_environment(world, rank, f"tcp://127.0.0.1:{port}", rank, "gloo")
        initialize_model_parallel(world, 1)
        torch.set_default_dtype(torch.bfloat16)
        made = initialize_model(vllm_config=config)
        torch.set_default_dtype(torch.float32)
        watch(made)
        made.load_weights(iter(tensors.items()))
    first = record_of(made)
    assert first is not None
    return {name: of.data for name, of in made.named_parameters()}, first


def trace(
    tensors: Mapping[str, torch.Tensor], loaded: Mapping[str, torch.Tensor], first: FirstLoad
) -> dict[str, torch.Tensor]:
    """The same parameters from a plan that was read off this rank's own loaders."""
    declared = destinations(first.placed)
    elsewhere = [(name, "not of this rank") for name in first.specs.keys() - first.required]
    made = make_plan(Offer.of(tensors), [Receiver(1, declared)], ignored=elsewhere)
    storages = Storages(made, 1, {of.parameter: torch.full_like(loaded[of.parameter], float("nan")) for of in declared})
    storages.clear_padding()
    sources = Sources(made, tensors)
    for bucket in made.buckets:
        buffer = new_buffer(bucket)
        sources.pack(bucket, buffer)
        storages.land(bucket, buffer)
    return storages.named


def plan(
    tensors: Mapping[str, torch.Tensor], loaded: Mapping[str, torch.Tensor], rank: int, world: int, experts: bool
) -> dict[str, torch.Tensor]:
    """The same parameters from a plan, on storages that start as NaN."""
    rules: list[Rule] = list(embeddings(VOCABULARY, 128))
    for layer in range(2):
        rules += norms(layer, 128)
        rules += attention(layer, 128, 2, 1, 64, qk_norm=True)
        rules += moe(layer, LayoutDescriptor(8, 128, 64), module="experts.routed_experts")
    ranks = {
        one + 1: Coordinates(one, world, ep_rank=one if experts else 0, ep_size=world if experts else 1)
        for one in range(world)
    }
    made = Planner(ModelSpec(tuple(rules), 2), ranks).plan(Offer.of(tensors))
    names = [of.parameter for of in made.destinations_for(rank + 1)]
    storages = Storages(made, rank + 1, {name: torch.full_like(loaded[name], float("nan")) for name in names})
    sources = Sources(made, tensors)
    for bucket in made.buckets_for(rank + 1):
        buffer = new_buffer(bucket)
        sources.pack(bucket, buffer)
        storages.land(bucket, buffer)
    return storages.named


if __name__ == "__main__":
    main(*sys.argv[1:])
