"""What a session means to the engine core: errors reach it whole, stale caches go, a broken engine stops.

Workers cannot reach the scheduler, and the three front ends (`LLM`, `AsyncLLM`, HTTP) all end in one call of the core:
`EngineCore.collective_rpc`. So that call is wrapped, for engines whose weight transfer is hardpoint's:

- Workers answer with an error instead of raising it. vLLM's multi-process executor stops reading at the first worker
  that raised and leaves the other answers in their queues, so every later call gets the answer to the one before
  (0.32, ``multiproc_executor.py``, `get_response`).
- A session that failed anywhere is closed everywhere; vLLM leaves it open when finish raises (``gpu_worker.py``).
- After a commit the core's caches are reset and the weight version is set, before another step can run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hardpoint.errors import HardpointError, SyncError
from hardpoint_vllm import sleep
from hardpoint_vllm.patching import wrap
from hardpoint_vllm.weight_transfer import NAME

_logger = logging.getLogger("vllm.hardpoint.weight_transfer")
SESSION = frozenset(
    {
        "init_weight_transfer_engine",
        "start_weight_update",
        "start_draft_weight_update",
        "update_weights",
        "finish_weight_update",
        "shutdown_weight_transfer_engine",
    }
)
Rpc = Callable[..., list[Any]]
_STOPPED = "_hardpoint_step"  # the core's own step function, while it must not run


def install() -> bool:
    """Wrap `EngineCore.collective_rpc` in this process; False if that was done before."""
    from vllm.v1.engine.core import EngineCore

    return wrap(EngineCore, "collective_rpc", _around)


def _around(original: Rpc) -> Rpc:
    def collective_rpc(
        core: Any, method: Any, timeout: float | None = None, args: Any = (), kwargs: Any = None
    ) -> list[Any]:
        if method in sleep.WRITERS:
            sleep.require_weights(core, method)
        config = core.vllm_config.weight_transfer_config
        if config is None or config.backend != NAME or method not in SESSION:
            answers = original(core, method, timeout, args, kwargs)
            if method in sleep.WHOLE_WRITERS:
                sleep.weights_written(core)
            return answers
        if method == "init_weight_transfer_engine":
            original(core, _close_session)  # one that an earlier trainer left open by dying in it
        answers = original(core, _answer, timeout, (method, tuple(args), kwargs or {}))
        failures = [answer for answer in answers if answer is not None]
        if failures:
            original(core, _close_session)
            if any(failure.fatal for failure in failures):
                _stop(core, failures[0].sentence)
            raise SyncError(failures[0].sentence)
        if method in ("update_weights", "finish_weight_update") and any(original(core, _changed)):
            _go_on(core)
            _after_commit(core, original)
            sleep.weights_written(core)
            return original(core, _facts)
        return [None] * len(answers)

    return collective_rpc


@dataclass(frozen=True)
class _Failure:
    """What a worker raised. `fatal`: its weights are neither the old nor the new ones."""

    sentence: str
    fatal: bool


def _answer(worker: Any, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Failure | None:
    """Runs in each worker."""
    from hardpoint_vllm.weight_transfer.commit import CommitFailed

    try:
        if method == "init_weight_transfer_engine":
            worker.weight_transfer_engine.drafter = _drafter(worker)
        getattr(worker, method)(*args, **kwargs)
        if method == "finish_weight_update":
            worker.weight_transfer_engine.after_session()
    except Exception as error:
        ours = isinstance(error, HardpointError)
        _logger.warning("hardpoint: %s failed: %s", method, error, exc_info=not ours)
        kind = "" if ours else f"{type(error).__name__}: "
        return _Failure(f"{kind}{error}", isinstance(error, CommitFailed))
    return None


def _drafter(worker: Any) -> Any:
    """The model that drafts on this worker, if one does."""
    found = getattr(worker, "get_draft_model", None)  # not in 0.26
    return found() if found is not None and hasattr(worker.model_runner, "get_draft_model") else None


def _after_commit(core: Any, original: Rpc) -> None:
    """Old weights made every cached value, and running requests' KV with it: those are computed again."""
    try:
        core._reset_caches()
    except Exception as error:
        sentence = f"New weights are loaded, but the caches made with the old ones could not be reset: {error}"
        _stop(core, sentence)
        raise SyncError(f"{sentence}. This engine serves nothing more: restart it.") from error
    epochs = set(original(core, _epoch))
    if hasattr(core, "set_weight_version") and len(epochs) == 1:  # 0.26 has no weight versions
        core.set_weight_version(str(epochs.pop()))


def _stop(core: Any, sentence: str) -> None:
    """Make every later step raise: an engine with mixed weights must answer nothing, and say so."""

    def step(*_args: Any, **_kwargs: Any) -> Any:
        raise SyncError(f"{sentence} This engine serves nothing until a full update is committed, or it is restarted.")

    if not hasattr(core, _STOPPED):
        setattr(core, _STOPPED, core.step_fn)
    core.step = core.step_fn = step


def _go_on(core: Any) -> None:
    """A full update is in on all workers: whatever was wrong before is overwritten."""
    if hasattr(core, _STOPPED):
        core.step_fn = getattr(core, _STOPPED)
        del core.step
        delattr(core, _STOPPED)


def _changed(worker: Any) -> bool:
    """Runs in each worker: whether its weights have changed since it was asked last."""
    engine = worker.weight_transfer_engine
    fresh, engine.fresh = engine.fresh, False
    return bool(fresh)


def _facts(worker: Any) -> dict[str, int]:
    """Runs in each worker: what was committed, for the front end's metrics. vLLM's own callers ignore it."""
    engine = worker.weight_transfer_engine
    return {"epoch": int(engine.epoch), "bytes": int(engine.received_bytes)}


def _close_session(wrapper: Any) -> None:
    worker = getattr(wrapper, "worker", wrapper)  # executors hold a wrapper that passes reads on, but not writes
    worker._weight_update_active = False
    engine = worker.weight_transfer_engine
    engine.reset_weight_update_target()
    engine.start_weight_update()  # drops what is staged


def _epoch(worker: Any) -> int:
    return int(worker.weight_transfer_engine.epoch)
