"""Load identical weights again: experts raw, then twice by `reload_weights`, then raw again; report every answer."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from support.tiny_models import checkpoint
from support.vllm_children.engine import start, tokens, worker_of


def main(answer: str, folder: str) -> None:
    llm = start(folder)
    model = worker_of(llm).get_model()
    saved = checkpoint(Path(folder))
    experts = {name: tensor for name, tensor in saved.items() if ".experts." in name}
    # What no kernel repacks (norms, embeddings): a raw load is right there and must stay possible.
    plain = {name: tensor for name, tensor in saved.items() if "norm" in name or "embed_tokens" in name}
    addresses = {name: param.data_ptr() for name, param in model.named_parameters()}

    found: dict[str, Any] = {"first": tokens(llm)}
    found["raw_error"] = _load(model, experts)
    found["raw"] = tokens(llm)
    for turn in ("reloaded_once", "reloaded_twice"):
        llm.collective_rpc("reload_weights")
        found[turn] = tokens(llm)
    found["raw_again_error"] = _load(model, experts)
    found["raw_each_error"] = {name: _load(model, {name: experts[name]}) for name in list(experts)[:3]}
    found["raw_again"] = tokens(llm)
    found["raw_plain_error"] = _load(model, plain)
    found["raw_plain"] = tokens(llm)
    found["addresses_stay"] = addresses == {name: param.data_ptr() for name, param in model.named_parameters()}
    from vllm.platforms import current_platform

    found["platform"] = type(current_platform).__name__
    found["enum"] = current_platform._enum.name
    found["moe"] = type(model.model.layers[0].mlp.experts.routed_experts.quant_method).__name__
    Path(answer).write_text(json.dumps(found))


def _load(model: Any, tensors: dict[str, Any]) -> str | None:
    try:
        model.load_weights(iter(tensors.items()))
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return f"{type(error).__name__}: {error}"
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
