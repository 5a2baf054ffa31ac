"""Sleep as the front end sees it: a drain with a deadline, ``/health`` that tells the truth, requests while it sleeps.

Stock (0.32) waits for running requests without end, answers ``/health`` with 200 as long as the process lives, and
gives every refusal as status 500. Errors of the engine core cross to this process as text, so their kind is put back
here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from vllm.exceptions import GracefulHTTPError

from hardpoint.errors import LifecycleError
from hardpoint_vllm.patching import wrap
from hardpoint_vllm.sleep import settings
from hardpoint_vllm.sleep.core import sleeps_with_hardpoint

# A core that is in the middle of a step or of a sleep answers after it; nothing is known to be wrong until then.
_HEALTH_SECONDS = 5.0


class SleepRefused(GracefulHTTPError, LifecycleError):  # type: ignore[misc]
    """vLLM's server answers it with status 503 and the sentence."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, HTTPStatus.SERVICE_UNAVAILABLE)


def install() -> bool:
    """Wrap the calls of `AsyncLLM` in this process; False if that was done before."""
    from vllm.v1.engine.async_llm import AsyncLLM

    wrap(AsyncLLM, "wake_up", _wake)
    wrap(AsyncLLM, "check_health", _health)
    wrap(AsyncLLM, "add_request", _add_request)
    return wrap(AsyncLLM, "sleep", _sleep)


def _sleep(original: Callable[..., Any]) -> Callable[..., Any]:
    async def sleep(llm: Any, level: int = 1, mode: str = "abort") -> None:
        if not sleeps_with_hardpoint(llm.vllm_config):
            await original(llm, level, mode)
            return
        asked = asyncio.ensure_future(original(llm, level, mode))
        if mode == "wait":
            seconds = settings.drain_seconds()
            done, _ = await asyncio.wait({asked}, timeout=seconds)
            if not done:
                sentence = (
                    f"sleep was given up: running requests did not finish within {seconds:g} s. Nothing has changed, "
                    f"and they go on: use mode=abort, or set {settings.DRAIN_SECONDS} higher."
                )
                await llm.engine_core.call_utility_async("hardpoint_cancel_sleep", sentence)
        try:
            await asked
        except Exception as error:
            raise _refused(error) from error
        llm.hardpoint_sleeps = True

    return sleep


def _wake(original: Callable[..., Any]) -> Callable[..., Any]:
    async def wake_up(llm: Any, tags: list[str] | None = None) -> bool:
        if not sleeps_with_hardpoint(llm.vllm_config):
            return bool(await original(llm, tags))
        try:
            awake = bool(await original(llm, tags))
        except Exception as error:
            raise _refused(error) from error
        llm.hardpoint_sleeps = not awake
        return awake

    return wake_up


def _health(original: Callable[..., Any]) -> Callable[..., Any]:
    async def check_health(llm: Any) -> None:
        await original(llm)
        if not sleeps_with_hardpoint(llm.vllm_config):
            return
        asked = llm.engine_core.call_utility_async("hardpoint_sleep_health")
        try:
            health = await asyncio.wait_for(asked, _HEALTH_SECONDS)
        except asyncio.TimeoutError:
            return
        if health["failure"]:
            from vllm.v1.engine.exceptions import EngineDeadError

            raise EngineDeadError(health["failure"])

    return check_health


def _add_request(original: Callable[..., Any]) -> Callable[..., Any]:
    async def add_request(llm: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(llm, "hardpoint_sleeps", False) and settings.refuses_requests():
            raise SleepRefused(
                "the engine sleeps and takes no requests: wake it (POST /wake_up), or set "
                f"{settings.REQUESTS}=wait to let requests wait for that."
            )
        return await original(llm, *args, **kwargs)

    return add_request


def _refused(error: Exception) -> Exception:
    """The engine's refusal as what it was; anything else stays what it is."""
    from vllm.v1.engine.exceptions import EngineDeadError

    return error if isinstance(error, EngineDeadError) else SleepRefused(str(error))
