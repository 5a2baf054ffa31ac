"""Post-load processing that somebody calls by hand: once after a full reload, and not on what is processed already.

Trainers that load into a running engine themselves (ms-swift's ``/process_weights_after_loading/``, verl) call vLLM's
``process_weights_after_loading`` when all weights have arrived. On a model that is processed already it moves expert
weights a second time, with nothing to show for it where the sizes are equal. Three cases:

- a raw reload is being collected (`raw_reload`): it ends here, and each layer is processed exactly once;
- nothing was loaded into packed parameters, since they were written in kernel layout or raw loads were refused: modules
  whose parameters the first processing moved are left alone, all others are processed as vLLM does;
- it is the first time, or a trainer has put loaders of its own on the packed parameters and so keeps track by itself:
  vLLM's function runs as it is.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch

from hardpoint_vllm.compat import raw_reload
from hardpoint_vllm.patching import wrap
from hardpoint_vllm.tripwire import arm, hook

_logger = logging.getLogger("vllm.hardpoint.post_load")


def install() -> bool:
    """Watch calls by hand in this process; False if that was done before.

    A patch: the name is looked up in this module by those who call it from outside vLLM. vLLM's loaders have a
    reference of their own, which is the tripwire's.
    """
    from vllm.model_executor.model_loader import utils

    return wrap(utils, "process_weights_after_loading", _around)


def _around(original: Callable[..., Any]) -> Callable[..., Any]:
    def process_weights_after_loading(model: Any, model_config: Any, *args: Any, **kwargs: Any) -> Any:
        inner = model_in(model)
        if raw_reload.finish(inner, model_config):
            return None
        packed = packed_modules(inner)
        if not packed or arm.policy() != "raise":
            return original(model, model_config, *args, **kwargs)
        with _set_aside(packed.values()):
            result = original(model, model_config, *args, **kwargs)
        _logger.info(
            "hardpoint: %d modules of %s are in kernel layout already and were not processed again (first: %s)",
            len(packed),
            type(inner).__name__,
            next(iter(packed)),
        )
        return result

    return process_weights_after_loading


def model_in(model: Any) -> torch.nn.Module:
    """The model inside wrappers of graph capture, which hold it under ``runnable``."""
    while not isinstance(model, torch.nn.Module) and hasattr(model, "runnable"):
        model = model.runnable
    return model  # type: ignore[no-any-return]


def packed_modules(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Modules whose parameters post-load processing moved, by name, as far as nobody else keeps track of them."""
    found: dict[str, torch.nn.Module] = {}
    modules = dict(model.named_modules())
    for armed in hook.armed_of(model):
        path, _, name = armed.name.rpartition(".")
        parameter = modules[path]._parameters.get(name) if path in modules else None
        if parameter is not None and hasattr(getattr(parameter, "weight_loader", None), arm.MARK):
            found[path] = modules[path]
    return found


@contextlib.contextmanager
def _set_aside(modules: Any) -> Iterator[None]:
    """`modules` without their quantisation method, which is what processes them."""
    kept = [(module, module.quant_method) for module in modules if getattr(module, "quant_method", None) is not None]
    for module, _ in kept:
        module.quant_method = None
    try:
        yield
    finally:
        for module, method in kept:
            module.quant_method = method
