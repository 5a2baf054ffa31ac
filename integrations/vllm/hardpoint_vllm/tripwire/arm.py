"""Which parameters of a loaded model a raw load would corrupt, and the loader that refuses it.

Fires never where loading is legal:
- the first load and `process_weights_after_loading` itself run before anything is armed;
- `reload_weights` and weight-transfer sessions (layerwise reload) put back the parameters recorded before processing,
  with their own loaders; only parameters that this record holds are armed, since others stay live during a reload
  (``bias`` and expert maps, for example);
- kernels that take the checkpoint's layout as it is (Triton experts on Hopper): a raw load is right there, and
  trainers rely on it, so those parameters are not armed; this is measured on the values, not guessed from shapes;
- LoRA adapters, EPLB moves, sharded-state loads and ``reload_weights(is_checkpoint_format=False)`` use no loaders;
- torchao models, whose `load_weights` runs a layerwise reload by itself.
One legal-looking path does meet it: a raw load of *every* weight followed by `process_weights_after_loading` by hand.
It is right by luck for some kernels, wrong for others (vLLM on CPU), and serves mixed weights in between;
``HARDPOINT_TRIPWIRE=warn`` is for those who must keep it.

Weights that a loader brought in kernel layout already (vLLM's weight cache) look unprocessed and are not armed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from hardpoint.errors import HardpointError, LayoutError
from hardpoint_vllm.tripwire.fingerprint import Fingerprint

VARIABLE = "HARDPOINT_TRIPWIRE"
MARK = "__hardpoint_armed__"  # on the loaders that refuse
_EXPERT_WEIGHTS = ("w13_", "w2_")
_logger = logging.getLogger("vllm.hardpoint.tripwire")


@dataclass(frozen=True)
class Armed:
    """One parameter that now refuses raw loads, and what processing did to it."""

    name: str
    change: str


def policy() -> str:
    """``raise`` (default), ``warn`` or ``off``, from ``HARDPOINT_TRIPWIRE``."""
    value = os.environ.get(VARIABLE, "").strip().lower() or "raise"
    if value not in ("raise", "warn", "off"):
        raise HardpointError(f"{VARIABLE}={value} is not known: use raise (the default), warn or off.")
    return value


def fingerprints(model: torch.nn.Module) -> dict[str, Fingerprint]:
    """Of every parameter that a layerwise reload would restore, by qualified name. Call before post-load processing."""
    return {f"{path}.{name}": Fingerprint.of(param) for path, _, name, param in _restorable(model)}


def arm(model: torch.nn.Module, before: dict[str, Fingerprint]) -> list[Armed]:
    """Refuse raw loads into each parameter whose values processing moved. Call after post-load processing."""
    armed: list[Armed] = []
    how = policy()
    if how == "off" or getattr(model, "_do_torchao_reload", False):
        return armed
    for path, module, name, param in _restorable(model):
        qualified = f"{path}.{name}"
        change = _change(name, before.get(qualified), Fingerprint.of(param), _recorded(module)[name])
        if change is not None:
            param.weight_loader = _refusing_loader(qualified, change, module, param, how)  # type: ignore[attr-defined]
            armed.append(Armed(qualified, change))
    return armed


def _change(name: str, before: Fingerprint | None, after: Fingerprint, created: torch.Tensor) -> str | None:
    if after.shape != tuple(created.shape) or after.dtype != created.dtype:
        return f"{created.dtype}{list(created.shape)} became {after.dtype}{list(after.shape)}"
    if before is None:
        return None
    if not before.telling:
        # All samples equal: moved values cannot show. For norms of ones that is the usual case and harmless; expert
        # weights are never so in earnest, and are the ones that kernels pack.
        return "values are all equal, so its layout cannot be told" if name.startswith(_EXPERT_WEIGHTS) else None
    return None if before.same_as(after) else "its elements were moved"


def _refusing_loader(
    qualified: str, change: str, module: torch.nn.Module, param: torch.nn.Parameter, how: str
) -> Callable[..., Any]:
    sentence = (
        f"Raw load_weights into {qualified} refused: it was processed for its kernel after loading ({change}), and "
        "weights in checkpoint layout written into it now would give wrong tokens without an error. Parameters before "
        "it in this call may already hold the new values: load the whole model again through "
        'collective_rpc("reload_weights"), or publish through a weight-transfer session (start_weight_update, '
        f"update_weights, finish_weight_update), which process weights again. {VARIABLE}=warn lets raw loads through."
    )
    original = getattr(param, "weight_loader", None)

    def weight_loader(*args: Any, **kwargs: Any) -> Any:
        if original is not None and _is_elsewhere(module, args, kwargs):
            return original(*args, **kwargs)
        if how == "raise":
            raise LayoutError(sentence)
        _logger.warning(sentence)
        if original is None:
            from vllm.model_executor.model_loader.weight_utils import default_weight_loader

            return default_weight_loader(*args, **kwargs)
        return original(*args, **kwargs)

    setattr(weight_loader, MARK, True)
    return weight_loader


def _is_elsewhere(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a loader is called for an expert of another rank, which vLLM's loader passes over.

    With expert parallelism a reload offers every expert to every rank: a layer that has all of its own is processed,
    and armed again, while the others still come.
    """
    to_local = getattr(module, "_map_global_expert_id_to_local_expert_id", None)
    expert = kwargs.get("expert_id", args[4] if len(args) > 4 else None)  # (param, weight, name, shard_id, expert_id)
    return to_local is not None and isinstance(expert, int) and to_local(expert) == -1


def _restorable(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module, str, torch.nn.Parameter]]:
    for path, module in model.named_modules():
        recorded = _recorded(module)
        for name, param in module._parameters.items():
            # Lazy (GGUF) parameters have no shape before they are loaded, so nothing can be said about them.
            if param is not None and name in recorded and not (is_lazy(param) or is_lazy(recorded[name])):
                yield path, module, name, param


def _recorded(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    recorded: dict[str, torch.Tensor] = get_layerwise_info(module).restore_metadata[0]
    return recorded
