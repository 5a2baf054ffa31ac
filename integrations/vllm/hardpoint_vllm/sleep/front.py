"""Sleep as the front ends see it: a drain with a deadline, ``/health`` that tells the truth, requests while it sleeps.

Stock (0.32) waits for running requests without end, answers ``/health`` with 200 as long as the process lives, and
gives every refusal as status 500. Errors of the engine core cross to this process as text, so their kind is put back
here. Nothing about the engine's state is remembered here: of several servers in front of one engine only one is asked
to sleep, so each asks the engine core.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from typing import Any

from hardpoint_vllm.metrics.sleep import DRAIN_DEADLINE, SleepMetrics, sleep_metrics
from hardpoint_vllm.patching import wrap
from hardpoint_vllm.sleep import settings
from hardpoint_vllm.sleep.core import sleeps_with_hardpoint
from hardpoint_vllm.sleep.requests import SleepRefused, checked, is_pooled

# A core that is in the middle of a step or of a sleep answers after it; nothing is known to be wrong until then.
_HEALTH_SECONDS = 5.0
_HEALTH = "hardpoint_sleep_health"


def install() -> bool:
    """Wrap the calls of `AsyncLLM` and `LLMEngine` in this process; False if that was done before."""
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.llm_engine import LLMEngine

    wrap(AsyncLLM, "wake_up", _wake)
    wrap(AsyncLLM, "check_health", _health)
    wrap(AsyncLLM, "add_request", _add_request)
    wrap(LLMEngine, "sleep", functools.partial(_sync, "sleep"))
    wrap(LLMEngine, "wake_up", functools.partial(_sync, "wake"))
    wrap(LLMEngine, "add_request", _sync_add_request)
    return wrap(AsyncLLM, "sleep", _sleep)


# -- the server ----------------------------------------------------------------------------------------------------


def _sleep(original: Callable[..., Any]) -> Callable[..., Any]:
    async def sleep(llm: Any, level: int = 1, mode: str = "abort") -> None:
        if not sleeps_with_hardpoint(llm.vllm_config):
            await original(llm, level, mode)
            return
        begin, failure = time.monotonic(), ""
        asked = asyncio.ensure_future(original(llm, level, mode))
        if mode == "wait":
            seconds = settings.drain_seconds()
            done, _ = await asyncio.wait({asked}, timeout=seconds)
            if not done:
                sentence = (
                    f"sleep was given up: running requests did not finish within {seconds:g} s. Nothing has changed, "
                    f"and they go on: use mode=abort, or set {settings.DRAIN_SECONDS} higher."
                )
                if await llm.engine_core.call_utility_async("hardpoint_cancel_sleep", sentence):
                    failure = DRAIN_DEADLINE
        try:
            await asked
        except Exception as error:
            await _note(llm, "sleep", begin, error, failure)
            raise _refused(error) from error
        await _note(llm, "sleep", begin)

    return sleep


def _wake(original: Callable[..., Any]) -> Callable[..., Any]:
    async def wake_up(llm: Any, tags: list[str] | None = None) -> bool:
        if not sleeps_with_hardpoint(llm.vllm_config):
            return bool(await original(llm, tags))
        begin = time.monotonic()
        try:
            awake = bool(await original(llm, tags))
        except Exception as error:
            await _note(llm, "wake", begin, error)
            raise _refused(error) from error
        await _note(llm, "wake", begin)
        return awake

    return wake_up


async def _note(llm: Any, kind: str, begin: float, error: Exception | None = None, failure: str = "") -> None:
    """Numbers of a transition; one that is done must not fail for want of them."""
    seconds = time.monotonic() - begin
    metrics = _metrics_of(llm)
    if metrics is not None:
        try:
            health = await asyncio.wait_for(llm.engine_core.call_utility_async(_HEALTH), _HEALTH_SECONDS)
        except Exception:  # noqa: BLE001 - an engine that has died has no numbers, and the failure is counted
            health = None
        metrics.ended(kind, seconds, health, error, failure)


def _health(original: Callable[..., Any]) -> Callable[..., Any]:
    async def check_health(llm: Any) -> None:
        await original(llm)
        if not sleeps_with_hardpoint(llm.vllm_config):
            return
        asked = llm.engine_core.call_utility_async(_HEALTH)
        try:
            health = await asyncio.wait_for(asked, _HEALTH_SECONDS)
        except asyncio.TimeoutError:
            return
        metrics = _metrics_of(llm)
        if metrics is not None:
            metrics.seen(health)
        if health["failure"]:
            from vllm.v1.engine.exceptions import EngineDeadError

            raise EngineDeadError(health["failure"])

    return check_health


def _add_request(original: Callable[..., Any]) -> Callable[..., Any]:
    async def add_request(llm: Any, *args: Any, **kwargs: Any) -> Any:
        if not sleeps_with_hardpoint(llm.vllm_config):
            return await original(llm, *args, **kwargs)
        if is_pooled(*args, *kwargs.values()):
            sentence = await llm.engine_core.call_utility_async("hardpoint_refusal")
            if sentence:
                raise SleepRefused(sentence)
        return checked(await original(llm, *args, **kwargs))

    return add_request


# -- vllm.LLM ------------------------------------------------------------------------------------------------------


def _sync(kind: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def transition(engine: Any, *args: Any, **kwargs: Any) -> Any:
        if not sleeps_with_hardpoint(engine.vllm_config):
            return original(engine, *args, **kwargs)
        begin = time.monotonic()
        try:
            answer = original(engine, *args, **kwargs)
        except Exception as error:
            _sync_note(engine, kind, begin, error)
            raise
        _sync_note(engine, kind, begin)
        return answer

    return transition


def _sync_note(engine: Any, kind: str, begin: float, error: Exception | None = None) -> None:
    seconds = time.monotonic() - begin
    metrics = _metrics_of(engine)
    if metrics is not None:
        try:
            health = _ask(engine.engine_core, _HEALTH)
        except Exception:  # noqa: BLE001 - as in `_note`
            health = None
        metrics.ended(kind, seconds, health, error)


def _sync_add_request(original: Callable[..., Any]) -> Callable[..., Any]:
    def add_request(engine: Any, *args: Any, **kwargs: Any) -> Any:
        # Asked before the first request of a batch: this engine has one front end, which nothing overtakes.
        if sleeps_with_hardpoint(engine.vllm_config) and not engine.has_unfinished_requests():
            sentence = _ask(engine.engine_core, "hardpoint_refusal")
            if sentence:
                raise SleepRefused(sentence)
        return original(engine, *args, **kwargs)

    return add_request


def _ask(client: Any, method: str) -> Any:
    """What a method of the engine core answers, whether the core is in this process or not."""
    core = getattr(client, "engine_core", None)
    return client.call_utility(method) if core is None else getattr(core, method)()


# -- both ----------------------------------------------------------------------------------------------------------


def _metrics_of(front: Any) -> SleepMetrics | None:
    found: SleepMetrics | None = front.__dict__.get("hardpoint_sleep_metrics")
    if found is None:
        found = front.__dict__["hardpoint_sleep_metrics"] = sleep_metrics()
    return found


def _refused(error: Exception) -> Exception:
    """The engine's refusal as what it was; anything else stays what it is."""
    from vllm.v1.engine.exceptions import EngineDeadError

    return error if isinstance(error, EngineDeadError) else SleepRefused(str(error))
