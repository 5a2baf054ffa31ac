"""Put `ControlGuard` around the server of an engine whose weight transfer is hardpoint's, without being asked.

vLLM makes its app after it has read its arguments, in one place per version: `init_entrypoints_middleware` as called by
``vllm.entrypoints.launchers.app`` (0.31, 0.32), ``build_app`` of ``vllm.entrypoints.openai.api_server`` (0.26).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

from hardpoint_vllm.control.guard import ControlGuard
from hardpoint_vllm.patching import wrap
from hardpoint_vllm.triton.on_import import after_import
from hardpoint_vllm.weight_transfer import NAME

NEWER = ("vllm.entrypoints.launchers.app", "init_entrypoints_middleware")
OLDER = ("vllm.entrypoints.openai.api_server", "build_app")
_asked = False


def install() -> None:
    """Wrap the place where the app is made, when it is imported. Idempotent."""
    global _asked
    if _asked:
        return
    _asked = True
    module, name = place()
    around = _around_middleware if (module, name) == NEWER else _around_build
    after_import(module, lambda found: wrap(found, name, around))


def place() -> tuple[str, str]:
    """Module and name of the function that is wrapped in this vLLM."""
    try:
        newer = importlib.util.find_spec(NEWER[0]) is not None
    except ModuleNotFoundError:  # its package is not there either
        newer = False
    return NEWER if newer else OLDER


def guards(arguments: Any) -> bool:
    """Whether the server's arguments ask for weight transfer by hardpoint."""
    config = getattr(arguments, "weight_transfer_config", None)
    backend = config.get("backend") if isinstance(config, Mapping) else getattr(config, "backend", None)
    return bool(backend == NAME)


def _around_middleware(original: Callable[..., Any]) -> Callable[..., Any]:
    def init_entrypoints_middleware(args: Any, app: Any, *rest: Any, **named: Any) -> Any:
        result = original(args, app, *rest, **named)
        if guards(args):
            app.add_middleware(ControlGuard)  # the last one added is the first to see a request
        return result

    return init_entrypoints_middleware


def _around_build(original: Callable[..., Any]) -> Callable[..., Any]:
    def build_app(args: Any, *rest: Any, **named: Any) -> Any:
        app = original(args, *rest, **named)
        if guards(args):
            app.add_middleware(ControlGuard)
        return app

    return build_app
