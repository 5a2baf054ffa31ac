"""vLLM's gated-delta-net layers, with their kernels under the device of the layer's tensors.

The guard covers every Triton launch already; this covers what is no Triton launch (FlashInfer, CuTe, copies that the
layer makes on the current device), through vLLM's own door for replaced layers. The methods that are wrapped run inside
an opaque op (``vllm::qwen_gdn_attention_core`` and its like), so torch.compile does not see the wrapper.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from hardpoint_vllm.kernels.layer import with_kernels
from hardpoint_vllm.triton.on_import import after_import

_FOLDER = "vllm.model_executor.layers.mamba.gdn"
LAYERS = {
    f"{_FOLDER}.qwen_gdn_linear_attn": "QwenGatedDeltaNetAttention",
    f"{_FOLDER}.kimi_gdn_linear_attn": "KimiGatedDeltaNetAttention",
    f"{_FOLDER}.olmo_gdn_linear_attn": "OlmoHybridGatedDeltaNetAttention",
}
METHODS = ("_forward_core", "_forward_core_rocm", "_forward_core_fused_norm_packed", "_warmup_prefill_kernels")
# Kimi's layer calls its own `_forward` from inside its op, and has no `_forward_core`.
OWN = {"KimiGatedDeltaNetAttention": ("_forward",)}
_logger = logging.getLogger("vllm.hardpoint.triton")
_asked: set[str] = set()


def install() -> None:
    """Register the layers when vLLM imports them. Idempotent."""
    for module, name in LAYERS.items():
        if module not in _asked:
            _asked.add(module)
            after_import(module, functools.partial(_register, name))


def _register(name: str, module: ModuleType) -> None:
    from vllm.model_executor.custom_op import op_registry_oot

    layer = getattr(module, name, None)
    if layer is None:
        _logger.warning("hardpoint: %s has no %s; the guard alone covers its kernels", module.__name__, name)
    elif name in op_registry_oot:
        _logger.warning("hardpoint: %s is already replaced by %s, which stays", name, op_registry_oot[name])
    else:
        layer.register_oot(under_device(with_kernels(layer)), name=name)


def under_device(layer: type) -> type:
    """A subclass of `layer` whose methods that launch kernels run under the device of their first tensor."""
    names = [name for name in (*METHODS, *OWN.get(layer.__name__, ())) if hasattr(layer, name)]
    methods = {name: _under_tensors_device(getattr(layer, name)) for name in names}
    return type(f"Hardpoint{layer.__name__}", (layer,), {**methods, "__module__": __name__, "__doc__": layer.__doc__})


def _under_tensors_device(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if isinstance(value, torch.Tensor) and value.device.type != "cpu":
                with torch.accelerator.device_index(value.device.index):
                    return method(self, *args, **kwargs)
        return method(self, *args, **kwargs)

    return run
