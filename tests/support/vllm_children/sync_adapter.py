"""An engine with LoRA that gets its adapter from a trainer, alone: good and bad updates, and what it answered."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from hardpoint.errors import HardpointError
from hardpoint_trainers.publisher import WeightPublisher
from support.adapters import CONFIG, adapter, save
from support.tiny_models import PROMPTS, checkpoint
from support.vllm_children.engine import start, tokens, worker_of

NUMBER = 1
Q = "base_model.model.model.layers.1.self_attn.q_proj"
Tensors = dict[str, torch.Tensor]


def main(answer: str, base: str) -> None:
    from vllm.config import WeightTransferConfig

    llm = start(
        base,
        enable_lora=True,
        max_lora_rank=8,
        max_loras=2,
        max_cpu_loras=3,
        weight_transfer_config=WeightTransferConfig(backend="hardpoint"),
    )
    weights = checkpoint(Path(base))
    folder = Path(answer).parent
    adapters = {seed: adapter(weights, seed) for seed in (1, 2, 3)}
    found: dict[str, Any] = {"base": tokens(llm), "good": {}, "faults": {}, "stock": {}}
    for seed, made in adapters.items():  # as stock vLLM serves them from a folder
        found["stock"][seed] = _with(llm, 10 + seed, str(save(made, folder / str(seed))))
    publisher = WeightPublisher(path="whole", deadline=10.0)
    init_info = publisher.init_info() | {"adapter": {"name": "policy", "number": NUMBER, "config": CONFIG}}
    connecting = threading.Thread(target=publisher.connect)
    connecting.start()
    llm.init_weight_transfer_engine({"init_info": init_info})
    connecting.join()

    def policy() -> list[list[int]]:
        return _with(llm, NUMBER, "/nothing/is/here")

    for seed in (1, 2):
        said = update(llm, publisher, adapters[seed])
        found["good"][seed] = said | {"tokens": policy(), "version": llm.get_weight_version(), "base": tokens(llm)}
    for fault, tensors in faults(adapters[3]):
        found["faults"][fault] = update(llm, publisher, tensors) | {"tokens": policy()}
    found["commit"] = _broken_commit(llm, publisher, adapters[3]) | {"tokens": policy()}
    found["version after faults"] = llm.get_weight_version()
    for seed in (1, 3):  # more adapters than there is room for: which of them go, and which does not
        _with(llm, 10 + seed, str(folder / str(seed)))
    found["after others"] = policy()
    found["next"] = update(llm, publisher, adapters[3]) | {"tokens": policy(), "version": llm.get_weight_version()}
    Path(answer).write_text(json.dumps(found))


def faults(whole: Tensors) -> Iterator[tuple[str, Tensors]]:
    """What a broken trainer might send."""
    b = f"{Q}.lora_B.weight"
    yield "half a pair", {name: of for name, of in whole.items() if name != b}
    yield "no pair of one module", {name: of for name, of in whole.items() if not name.startswith(Q)}
    yield "half the rows", whole | {b: whole[b][: len(whole[b]) // 2].clone()}
    yield "another rank", {name: torch.cat([of, of], 0 if "lora_A" in name else 1) for name, of in whole.items()}
    yield "a module that is not there", whole | {Q.replace(".1.", ".9.") + ".lora_A.weight": whole[b].T.contiguous()}
    yield "a base weight", whole | {"base_model.model.model.layers.1.self_attn.q_proj.base_layer.weight": whole[b]}
    yield "nan", whole | {b: whole[b].clone().index_fill_(0, torch.tensor([3]), float("nan"))}
    yield "nothing", {}


def update(llm: Any, publisher: WeightPublisher, tensors: Tensors) -> dict[str, Any]:
    """One session; what either side said."""
    said: dict[str, Any] = {"trainer": None, "error": None}

    def publish() -> None:
        try:
            said["trainer"] = publisher.publish(tensors, deadline=5.0).committed
        except HardpointError as error:
            said["trainer"] = str(error)

    sending = threading.Thread(target=publish)
    sending.start()
    try:
        llm.start_weight_update()
        llm.update_weights({"update_info": {"deadline": 5.0}})
        llm.finish_weight_update()
    except Exception as error:  # noqa: BLE001 - the test looks at it
        said["error"] = f"{type(error).__name__}: {error}"
    sending.join(20)
    return said


def _broken_commit(llm: Any, publisher: WeightPublisher, tensors: Tensors) -> dict[str, Any]:
    """The slot is half filled when it breaks."""
    modules = list(worker_of(llm).get_model().lora_manager.modules.values())
    broken, original, count = modules[len(modules) // 2], modules[len(modules) // 2].set_lora, [0]

    def set_lora(*arguments: Any) -> None:
        count[0] += 1
        if count[0] == 1:
            raise MemoryError("no room for the second half")
        original(*arguments)

    broken.set_lora = set_lora
    try:
        return update(llm, publisher, tensors)
    finally:
        del broken.set_lora


def _with(llm: Any, number: int, path: str) -> list[list[int]]:
    """Tokens of requests that want the adapter in slot `number`."""
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    sampling = SamplingParams(temperature=0.0, max_tokens=12, min_tokens=12, ignore_eos=True, detokenize=False)
    prompts = [{"prompt_token_ids": list(prompt)} for prompt in PROMPTS]
    request = LoRARequest(f"adapter {number}", number, path)
    answers = llm.generate(prompts, sampling, use_tqdm=False, lora_request=request)
    return [list(of.outputs[0].token_ids) for of in answers]


if __name__ == "__main__":
    main(*sys.argv[1:])
