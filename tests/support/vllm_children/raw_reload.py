"""A real vLLM model without an engine, reloaded as trainers do it: raw loads, then post-load processing by hand.

Each case starts from the weights of seed 0 and is compared, bit for bit and address by address, with a model that was
loaded from the new weights in the first place.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from support.tiny_models import checkpoint

Tensors = dict[str, torch.Tensor]


def main(answer: str, old: str, new: str, port: str, rank: str, world: str, experts: str) -> None:
    at, size = int(rank), int(world)
    model, config = _model(old, port, at, size, experts == "ep")
    first, second = checkpoint(Path(old)), checkpoint(Path(new))
    _first_load(model, config, first)
    started = _state(model)
    addresses = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    reference, _ = _model(new, port, at, size, experts == "ep", again=True)
    _first_load(reference, config, second)
    wanted = _state(reference)
    counted = _count_processing(model)
    found: dict[str, Any] = {"differ at first": sorted(_differ(started, wanted))}

    def case(name: str, act: Callable[[], Any], expected: Tensors, back_to_first: bool = True) -> None:
        counted.clear()
        error = None
        try:
            act()
        except Exception as raised:  # noqa: BLE001 - the test looks at it
            error = f"{type(raised).__name__}: {raised}"
        found[name] = {
            "error": error,
            "differ": sorted(_differ(_state(model), expected)),
            "moved": [n for n, p in model.named_parameters() if p.data_ptr() != addresses[n]],
            "processed": dict(counted),
        }
        if back_to_first:
            _reload(model, config, first)
            found[name]["back"] = sorted(_differ(_state(model), started))

    def by_hand() -> None:
        from vllm.model_executor.model_loader import utils

        utils.process_weights_after_loading(model, config, torch.device("cpu"))

    def server(tensors: Tensors, buckets: int = 3) -> None:
        """ms-swift's rollout server: a request per bucket, then its route /process_weights_after_loading/."""
        items = list(tensors.items())
        for start in range(buckets):
            bucket = dict(items[start::buckets])
            model.load_weights(weights=list(bucket.items()))
            for tensor in bucket.values():
                tensor.fill_(float("nan"))  # the bucket's memory is used again
        by_hand()

    def megatron(tensors: Tensors) -> None:
        """ms-swift's Megatron colocate mode: one iterator over the whole model."""
        model.load_weights(iter(tensors.items()))
        by_hand()

    def fsdp2(tensors: Tensors) -> None:
        """ms-swift's FSDP2 colocate mode: the state dict of each group of layers, experts fused."""
        for group in _groups(_fused(tensors)):
            model.load_weights(group.items())
        by_hand()

    def runtime_layout() -> None:
        """Written into the engine's own storage in its own layout; then the call that a trainer makes anyway."""
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(wanted[name])
        by_hand()

    def copy(tensors: Tensors) -> Tensors:
        return {name: tensor.clone() for name, tensor in tensors.items()}

    case("server", lambda: server(copy(second)), wanted)
    case("server again", lambda: server(copy(second), 7), wanted)
    case("megatron", lambda: megatron(second), wanted)
    case("fsdp2", lambda: fsdp2(second), wanted)
    case("runtime layout", runtime_layout, wanted)
    case("by hand alone", by_hand, started)
    case("by hand twice", lambda: (by_hand(), by_hand()), started)

    expert = next(name for name in second if ".experts." in name)
    missing = {name: tensor for name, tensor in second.items() if name != expert}
    case("one tensor missing", lambda: server(copy(missing)), started)
    twice = [*missing.items(), next(iter(missing.items()))]
    case("one tensor twice", lambda: (model.load_weights(iter(twice)), by_hand()), started)
    wrong = {**second, expert: second[expert][:, :-1].clone()}
    case("a wrong shape", lambda: server(copy(wrong)), started)
    query = next(name for name in second if "q_proj" in name)
    refused = {**second, query: second[query][:-1].clone()}
    # With tensor parallelism the loader of the last rank alone notices; the call by hand tells the others.
    load_refused = lambda: model.load_weights(iter(refused.items()))  # noqa: E731
    case("a shape that a loader refuses", lambda: (_quiet(load_refused), by_hand()), started)
    case("more of what failed", lambda: (_quiet(lambda: model.load_weights(iter(twice))), megatron(second)), started)
    case("the end of what failed", lambda: (_quiet(lambda: model.load_weights(iter(twice))), by_hand()), started)
    half = dict(list(second.items())[: len(second) // 2])
    case("after a failure", lambda: (_quiet(lambda: server(copy(half))), _quiet(by_hand), server(copy(second))), wanted)
    only_first_rank = second if at else missing
    case("one rank objects", lambda: server(copy(only_first_rank)), started)
    Path(answer).write_text(json.dumps(found))


def _quiet(act: Callable[[], Any]) -> None:
    try:
        act()
    except Exception as error:  # noqa: BLE001 - ms-swift logs it and goes on
        print(error)


_CONFIG: list[Any] = []


def _model(folder: str, port: str, rank: int, world: int, experts: bool, again: bool = False) -> tuple[Any, Any]:
    from vllm.config import set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader.utils import initialize_model

    config = EngineArgs(
        model=folder,
        dtype="bfloat16",
        enforce_eager=True,
        tensor_parallel_size=world,
        enable_expert_parallel=experts,
        skip_tokenizer_init=True,
        max_model_len=128,
        distributed_executor_backend="external_launcher" if world > 1 else None,
    ).create_engine_config()  # loads the general plugins, as an engine does
    _CONFIG.append(config)
    with set_current_vllm_config(config):
        if not again:
            init_distributed_environment(world, rank, f"tcp://127.0.0.1:{port}", rank, "gloo")
            initialize_model_parallel(world, 1)
        torch.set_default_dtype(torch.bfloat16)
        made = initialize_model(vllm_config=config)
        torch.set_default_dtype(torch.float32)
    return made, config.model_config


def _first_load(model: Any, config: Any, tensors: Tensors) -> None:
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader import base_loader

    model.load_weights(iter(tensors.items()))
    with set_current_vllm_config(_CONFIG[-1]):
        base_loader.process_weights_after_loading(model, config, torch.device("cpu"))


def _reload(model: Any, config: Any, tensors: Tensors) -> None:
    """vLLM's own way; also a check that it still works after whatever the case did."""
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

    with torch.no_grad():
        initialize_layerwise_reload(model)
        model.load_weights(iter(tensors.items()))
        finalize_layerwise_reload(model, config)


def _state(model: Any) -> Tensors:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def _differ(left: Tensors, right: Tensors) -> Iterator[str]:
    for name in left.keys() | right.keys():
        same = name in left and name in right and left[name].shape == right[name].shape
        if not same or not torch.equal(left[name].view(torch.uint8), right[name].view(torch.uint8)):
            yield name


def _count_processing(model: Any) -> Counter[str]:
    """How often each module with experts is processed from now on."""
    counted: Counter[str] = Counter()
    for name, module in model.named_modules():
        method = getattr(module, "quant_method", None)
        if method is None or not hasattr(module, "w13_weight"):
            continue

        def process(layer: Any, name: str = name, original: Any = method.process_weights_after_loading) -> Any:
            counted[name] += 1
            return original(layer)

        method.process_weights_after_loading = process
    return counted


def _fused(tensors: Tensors) -> Tensors:
    """Experts as transformers 5 holds them: gate_up_proj [E, 2I, H], down_proj [E, H, I]."""
    fused = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    layers = sorted({name.split(".experts.")[0] for name in tensors if ".experts." in name})
    for layer in layers:
        count = len(
            {name.split(".experts.")[1].split(".")[0] for name in tensors if name.startswith(f"{layer}.experts.")}
        )

        def stack(which: str, layer: str = layer, count: int = count) -> torch.Tensor:
            return torch.stack([tensors[f"{layer}.experts.{expert}.{which}.weight"] for expert in range(count)])

        fused[f"{layer}.experts.gate_up_proj"] = torch.cat([stack("gate_proj"), stack("up_proj")], dim=1)
        fused[f"{layer}.experts.down_proj"] = stack("down_proj")
    return fused


def _groups(tensors: Tensors) -> Iterator[Tensors]:
    """One group per layer, and one for the rest."""
    of: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        of.setdefault(name.split(".")[2] if ".layers." in name else "rest", {})[name] = tensor
    yield from of.values()


if __name__ == "__main__":
    main(*sys.argv[1:])
