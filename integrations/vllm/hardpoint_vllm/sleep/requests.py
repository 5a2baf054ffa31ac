"""Requests that an engine cannot take now: the engine core answers, since it alone knows, whichever server asked.

An error of the core reaches a front end as a finished output whose `stop_reason` begins with `_MARK`; there it becomes
`SleepRefused`, which vLLM's server answers with status 503.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from vllm.exceptions import GracefulHTTPError

from hardpoint.errors import LifecycleError
from hardpoint_vllm.sleep import settings
from hardpoint_vllm.sleep.core import roll_of, sleeps_with_hardpoint

_MARK = "hardpoint refuses: "


class SleepRefused(GracefulHTTPError, LifecycleError):  # type: ignore[misc]
    """vLLM's server answers it with status 503 and the sentence."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, HTTPStatus.SERVICE_UNAVAILABLE)


# -- in the engine core --------------------------------------------------------------------------------------------


def refusal(core: Any) -> str:
    """Why a request cannot be taken now, "" if it can; of a core whose engine sleeps with hardpoint."""
    if not sleeps_with_hardpoint(core.vllm_config):
        return ""
    failure = roll_of(core.model_executor).failure
    if failure:
        return f"the engine takes no requests: {failure}"
    going = getattr(core, "hardpoint_pending_sleep", None) is not None
    if settings.refuses_requests() and (going or core.model_executor.is_sleeping):
        return (
            f"the engine {'goes to sleep' if going else 'sleeps'} and takes no requests: wake it (POST /wake_up), or "
            f"set {settings.REQUESTS}=wait to let requests wait for that."
        )
    return ""


def around_add(original: Callable[..., Any]) -> Callable[..., Any]:
    """``EngineCore.add_request``: what cannot be taken is answered at once."""

    def add_request(core: Any, request: Any, *args: Any, **kwargs: Any) -> None:
        sentence = refusal(core)
        # A pooled answer has no place for a sentence: its front end has asked before.
        if not sentence or request.pooling_params is not None or not hasattr(core, "output_queue"):
            original(core, request, *args, **kwargs)
            return
        _answer(core, request, sentence)

    return add_request


def end_all(core: Any) -> None:
    """Requests that a FAILED engine holds get its reason as an error: nothing else would ever answer them.

    Pooled ones stay until the engine is restarted: their answer has no place for a sentence.
    """
    from vllm.v1.request import RequestStatus

    failure = roll_of(core.model_executor).failure
    if failure and hasattr(core, "output_queue"):
        held = [name for name, request in core.scheduler.requests.items() if request.pooling_params is None]
        for request in core.scheduler.finish_requests(held, RequestStatus.FINISHED_ERROR):
            _answer(core, request, f"the request was given up: {failure}")


def _answer(core: Any, request: Any, sentence: str) -> None:
    from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason

    name = request.request_id
    output = EngineCoreOutput(name, [], finish_reason=FinishReason.ERROR, stop_reason=_MARK + sentence)
    outputs = EngineCoreOutputs(
        engine_index=getattr(core, "engine_index", 0), outputs=[output], finished_requests={name}
    )
    core.output_queue.put_nowait((request.client_index, outputs))


# -- in a front end ------------------------------------------------------------------------------------------------


def checked(collector: Any) -> Any:
    """`collector` (vLLM's `RequestOutputCollector`), whose reader gets `SleepRefused` for an answer of `_answer`."""
    put = collector.put

    def put_or_raise(output: Any) -> None:
        put(_refused(output) or output)

    collector.put = put_or_raise
    if collector.output is not None:  # it may have come before this call
        collector.output = _refused(collector.output) or collector.output
    return collector


def is_pooled(*arguments: Any) -> bool:
    """A request made of these arguments asks for a pooled answer."""
    from vllm import PoolingParams

    return any(isinstance(one, PoolingParams) or getattr(one, "pooling_params", None) is not None for one in arguments)


def _refused(output: Any) -> SleepRefused | None:
    completions = getattr(output, "outputs", None)
    for completion in completions if isinstance(completions, list) else ():
        reason = getattr(completion, "stop_reason", None)
        if isinstance(reason, str) and reason.startswith(_MARK):
            return SleepRefused(reason.removeprefix(_MARK))
    return None
