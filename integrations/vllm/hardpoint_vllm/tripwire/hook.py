"""Where the tripwire is set: around vLLM's post-load processing of a whole model.

No extension point sees every quantisation method and every loader there: `UnquantizedFusedMoEMethod.register_oot`
covers one method and can be taken by one plugin only. So it is a patch, of the one place from which loaders call it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch

from hardpoint_vllm.announce import flush
from hardpoint_vllm.patching import wrap
from hardpoint_vllm.tripwire.arm import Armed, arm, fingerprints

AFTERWARDS: list[Callable[[torch.nn.Module], object]] = []  # called with each model that was processed and armed
_ARMED: WeakKeyDictionary[torch.nn.Module, tuple[Armed, ...]] = WeakKeyDictionary()
_logger = logging.getLogger("vllm.hardpoint.tripwire")


def armed_of(model: torch.nn.Module) -> tuple[Armed, ...]:
    """Parameters of `model` that post-load processing moved; empty too where it was not seen."""
    return _ARMED.get(model, ())


def install() -> bool:
    """Set the tripwire in this process; False if it was set before."""
    from vllm.model_executor.model_loader import base_loader

    return wrap(base_loader, "process_weights_after_loading", _around)


def _around(original: Callable[..., Any]) -> Callable[..., Any]:
    def process_weights_after_loading(model: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        before = fingerprints(model)
        result = original(model, *args, **kwargs)
        armed = arm(model, before)
        _ARMED[model] = tuple(armed)
        for action in AFTERWARDS:
            action(model)
        flush()
        if armed:
            _logger.info("%s", _summary(type(model).__name__, armed))
        return result

    return process_weights_after_loading


def _summary(model: str, armed: list[Armed]) -> str:
    return (
        f"hardpoint: {len(armed)} parameters of {model} were repacked for their kernels (first: {armed[0].name}); "
        "a raw load_weights into them will be refused"
    )
