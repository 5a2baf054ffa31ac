"""Hooks that must outlive another plugin's patches: put back right before a model is loaded.

vllm-ascend assigns its own ``process_weights_after_loading`` to vLLM's loaders when its worker starts, after general
plugins ran; the tripwire around the stock function is gone then. Loaders look the name up when they need it, so it is
enough to wrap what is there at the start of `load_model`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hardpoint_vllm.patching import wrap


def install() -> bool:
    """Look after the hooks in this process; False if that was done before."""
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader

    return wrap(BaseModelLoader, "load_model", _around)


def _around(original: Callable[..., Any]) -> Callable[..., Any]:
    def load_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        put_back()
        return original(self, *args, **kwargs)

    return load_model


def put_back() -> None:
    """Wrap what other plugins have put in the place of wrapped functions since. Idempotent."""
    from hardpoint_vllm.compat import post_load
    from hardpoint_vllm.tripwire import hook

    hook.install()
    post_load.install()
