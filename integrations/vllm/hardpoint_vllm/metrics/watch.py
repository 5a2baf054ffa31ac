"""Watch the front ends' calls: the registry that is scraped is theirs, the engine core has a process of its own.

Both front ends send every call through one method, which is wrapped: ``AsyncLLM.collective_rpc`` (the server) and
``LLMEngine.collective_rpc`` (``vllm.LLM``). Nothing of a call is changed; calls of engines whose weight transfer is not
hardpoint's pass by.
"""

from __future__ import annotations

import functools
import importlib
import logging
import time
from collections.abc import Callable
from typing import Any

from hardpoint_vllm.metrics.collectors import collectors
from hardpoint_vllm.metrics.session import STEPS, SessionMetrics
from hardpoint_vllm.patching import wrap
from hardpoint_vllm.weight_transfer import NAME

_logger = logging.getLogger("vllm.hardpoint.metrics")
FRONT_ENDS = {"vllm.v1.engine.async_llm": "AsyncLLM", "vllm.v1.engine.llm_engine": "LLMEngine"}
_ATTRIBUTE = "_hardpoint_metrics"


def install() -> None:
    """Wrap both front ends. Idempotent."""
    for module, name in FRONT_ENDS.items():
        around = _around_async if name == "AsyncLLM" else _around
        wrap(getattr(importlib.import_module(module), name), "collective_rpc", around)


def _around(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def collective_rpc(engine: Any, method: Any, *args: Any, **kwargs: Any) -> Any:
        metrics = _of(engine, method)
        if metrics is None:
            return original(engine, method, *args, **kwargs)
        metrics.began(method)
        try:
            answers = original(engine, method, *args, **kwargs)
        except Exception:
            metrics.failed(method)
            raise
        metrics.answered(method, answers)
        return answers

    return collective_rpc


def _around_async(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def collective_rpc(engine: Any, method: Any, *args: Any, **kwargs: Any) -> Any:
        metrics = _of(engine, method)
        if metrics is None:
            return await original(engine, method, *args, **kwargs)
        metrics.began(method)
        try:
            answers = await original(engine, method, *args, **kwargs)
        except Exception:
            metrics.failed(method)
            raise
        metrics.answered(method, answers)
        return answers

    return collective_rpc


def _of(engine: Any, method: Any) -> SessionMetrics | None:
    """Metrics of an engine with weight transfer by hardpoint, for a call that is one of an update."""
    if not isinstance(method, str) or method not in STEPS:
        return None
    config = getattr(engine.vllm_config, "weight_transfer_config", None)
    if config is None or config.backend != NAME:
        return None
    found: SessionMetrics | None = getattr(engine, _ATTRIBUTE, None)
    if found is None:
        try:
            found = SessionMetrics(collectors(), time.monotonic)
        except Exception as error:  # noqa: BLE001 - an update must not fail for want of a metric; it is said aloud
            _logger.warning("hardpoint: weight updates are not in Prometheus: %s", error)
            return None
        setattr(engine, _ATTRIBUTE, found)
    return found
