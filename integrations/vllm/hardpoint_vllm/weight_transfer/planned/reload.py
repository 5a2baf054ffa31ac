"""Load parameters as the loaders had them, through vLLM's layerwise reload: the only place that writes what serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hardpoint.errors import SyncError


def load_staged(
    model: torch.nn.Module, model_config: Any, staged: Mapping[str, torch.Tensor], kept: Mapping[str, torch.Tensor]
) -> None:
    """Load parameters that are cut and fused already, by parameter name, through vLLM's layerwise reload.

    `kept`: tensors of the same layers that no update brings; the reload makes the whole layer anew.
    """
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
    from vllm.model_executor.model_loader.reload.layerwise import make_online_process_loader

    given = {**kept, **staged}
    originals: list[tuple[torch.Tensor, Any]] = []
    try:
        with torch.no_grad():
            initialize_layerwise_reload(model)
            for prefix, layer in model.named_modules():
                at = f"{prefix}." if prefix else ""
                own = []
                for name in (*layer._parameters, *layer._buffers):
                    meta = getattr(layer, name) if f"{at}{name}" in given else None
                    if meta is not None and meta.is_meta:  # else the reload has not moved it, and it has its value
                        originals.append((meta, _unwrapped(meta)))
                        meta.weight_loader = _put
                        meta.weight_loader = make_online_process_loader(layer, name)
                        own.append((meta, given[f"{at}{name}"]))
                for meta, value in own:
                    meta.weight_loader(meta, value)
            finalize_layerwise_reload(model, model_config)
    finally:
        for meta, original in originals:  # they are vLLM's own record of the model, and serve its next reload
            meta.weight_loader = original  # type: ignore[attr-defined]


def _unwrapped(meta: torch.Tensor) -> Any:
    """The loader of a parameter, without what the reload has put around it."""
    loader: Any = meta.weight_loader  # type: ignore[attr-defined]
    while loader.__name__ == "online_process_loader":
        loader = loader.__wrapped__
    return loader


def _put(param: torch.Tensor, loaded_weight: torch.Tensor) -> None:
    if param.shape != loaded_weight.shape:
        raise SyncError(f"A parameter of shape {list(param.shape)} was staged as {list(loaded_weight.shape)}.")
    param.data.copy_(loaded_weight)
