"""Sleep and wake in the engine core: one call to every worker, every answer read, and the truth kept for health.

Stock (0.32) notes that workers sleep only if all calls returned, lets requests run on unmapped memory when one raised,
never schedules again after a refused sleep, and reads the next call's answers from the wrong worker after an error. So
`Executor.sleep`, `wake_up` and `discard` are replaced for engines that sleep with hardpoint, and `EngineCore.sleep`
goes on scheduling where nothing has changed.
"""

from __future__ import annotations

import itertools
import logging
import signal
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from hardpoint.errors import LifecycleError
from hardpoint.lifecycle import Phase
from hardpoint_vllm.patching import wrap
from hardpoint_vllm.sleep import NAME, settings
from hardpoint_vllm.sleep.memory import WEIGHTS
from hardpoint_vllm.sleep.report import FAILED_BEFORE, LOST, Report, report
from hardpoint_vllm.sleep.seat import Answer, Call, carry_out

if TYPE_CHECKING:
    from hardpoint.sync.rendezvous import Meeting

_logger = logging.getLogger("vllm.hardpoint.sleep")
# Votes between the first step of an operation and its end: prepare, commit, rollback, admit.
_ROUNDS = 4


@dataclass(frozen=True)
class Waiting:
    """A sleep that waits for running requests.

    Attributes:
        future: of its caller.
        callbacks: those of the core's idle callbacks that belong to it.
        paused_before: the scheduler was paused before it came, and stays so if it is given up.
    """

    future: Future[Any]
    callbacks: list[Callable[..., Any]]
    paused_before: bool


def install() -> bool:
    """Replace them in this process; False if that was done before."""
    from vllm.v1.engine.core import EngineCore
    from vllm.v1.executor.abstract import Executor

    from hardpoint_vllm.sleep import requests

    EngineCore.hardpoint_sleep_health = _core_health
    EngineCore.hardpoint_refusal = requests.refusal
    EngineCore.hardpoint_cancel_sleep = _cancel
    wrap(Executor, "sleep", _sleep)
    wrap(Executor, "wake_up", _wake)
    wrap(Executor, "discard", _discard)
    wrap(EngineCore, "add_request", requests.around_add)
    wrap(EngineCore, "wake_up", _engine_wake)
    return wrap(EngineCore, "sleep", _engine_sleep)


def sleeps_with_hardpoint(vllm_config: Any) -> bool:
    """The engine of this configuration uses the backend of this package."""
    model = vllm_config.model_config
    return model is not None and model.enable_sleep_mode and getattr(model, "sleep_mode_backend", "") == NAME


class Roll:
    """What the engine core knows of its workers: the store of their votes, and their last word."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor
        self._numbers = itertools.count(1)
        self._served: Meeting | None = None
        self.failure = ""
        self.answers: list[Answer] = []
        self.report = Report()

    def call(self, name: str, tags: tuple[str, ...] | None = None, level: int = 1) -> None:
        """Have every worker do it. LifecycleError with what each that failed said; `failure` if one is FAILED."""
        number = next(self._numbers)
        if self.failure and name != "look":
            self.report = Report(number, name, FAILED_BEFORE)
            raise LifecycleError(f"{name} refused: {self.failure}")
        wait = _ROUNDS * (settings.step_seconds() + 10.0)
        call = Call(name, number, self._address(), tags, level)
        workers = _processes(self._executor)
        try:
            self.answers = self._executor.collective_rpc(carry_out, timeout=wait, args=(call,))
        except Exception as error:
            who = _ended(workers) or f"{type(error).__name__}: {error}"
            self.failure = (
                f"the workers did not all answer {name} #{call.op_id} ({who}); where they are is not known. Restart "
                "the engine."
            )
            self.report = Report(number, name, LOST)
            raise LifecycleError(self.failure) from error
        self.report = report(number, name, self.answers)
        healths = [answer.health for answer in self.answers if answer.health]
        self._executor.sleeping_tags = {tag for health in healths for tag in (*health["asleep"], *health["undefined"])}
        failed = [health["reason"] for health in healths if health["phase"] == Phase.FAILED.value]
        sentences = list(dict.fromkeys(answer.sentence for answer in self.answers if answer.sentence))
        if failed:
            self.failure = f"a worker is FAILED and the engine serves nothing until it is restarted: {failed[0]}"
        if sentences:
            more = f" ({len(sentences) - 1} more workers say so)" if len(sentences) > 1 else ""
            raise LifecycleError(sentences[0] + more)

    def require_weights(self, what: str) -> None:
        """LifecycleError if the weights have no memory."""
        if any(WEIGHTS in answer.health.get("asleep", ()) for answer in self.answers):
            raise LifecycleError(f"{what} is refused: the weights sleep. Wake them first (wake_up with tags=weights).")

    def undefined(self) -> bool:
        """The weights have memory and no values: a sleep of level 2 lost them."""
        return any(WEIGHTS in answer.health.get("undefined", ()) for answer in self.answers)

    def unchanged(self) -> bool:
        """Every worker is where it was when it served."""
        phases = {answer.health.get("phase", Phase.RUNNING.value) for answer in self.answers}
        return not self.failure and phases == {Phase.RUNNING.value}

    def _address(self) -> str:
        """Served here, since this process outlives each worker; on the loopback where no worker is elsewhere."""
        if self._served is None:
            from hardpoint.sync.rendezvous import LOOPBACK, serve_store

            host = LOOPBACK
            parallel = self._executor.parallel_config
            if parallel.nnodes > 1 or parallel.distributed_executor_backend == "ray":
                from vllm.utils.network_utils import get_ip

                host = get_ip()
            self._served = serve_store(host)  # on that address alone; torch by itself listens on every one
        return f"{self._served.host}:{self._served.port}"


def _processes(executor: Any) -> list[tuple[int, Any]]:
    """(rank, process) of each worker, where they are processes of this host."""
    return [
        (handle.rank, handle.proc) for handle in getattr(executor, "workers", None) or () if hasattr(handle, "proc")
    ]


def _ended(workers: list[tuple[int, Any]]) -> str:
    """Which workers have ended by themselves, and how; those that vLLM ends after the first get SIGTERM."""
    words = []
    for rank, process in workers:
        code = process.exitcode
        if code is not None and code not in (0, -signal.SIGTERM):
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            words.append(f"the worker of rank {rank} has ended: {how}")
    return "; ".join(words)


def roll_of(executor: Any) -> Roll:
    """The roll of an executor, the same one on every call."""
    roll: Roll | None = executor.__dict__.get("hardpoint_roll")
    if roll is None:
        roll = executor.__dict__["hardpoint_roll"] = Roll(executor)
    return roll


def _sleep(original: Callable[..., Any]) -> Callable[..., Any]:
    def sleep(executor: Any, level: int = 1) -> None:
        if not sleeps_with_hardpoint(executor.vllm_config):
            original(executor, level)
            return
        roll_of(executor).call("sleep", level=level)
        _logger.info("asleep at level %d: %s", level, ", ".join(sorted(executor.sleeping_tags)))

    return sleep


def _wake(original: Callable[..., Any]) -> Callable[..., Any]:
    def wake_up(executor: Any, tags: list[str] | None = None) -> None:
        if not sleeps_with_hardpoint(executor.vllm_config):
            original(executor, tags)
            return
        roll_of(executor).call("wake", tags=None if tags is None else tuple(tags))

    return wake_up


def _discard(original: Callable[..., Any]) -> Callable[..., Any]:
    def discard(executor: Any, tags: tuple[str, ...]) -> None:
        if not sleeps_with_hardpoint(executor.vllm_config):
            original(executor, tags)
            return
        roll_of(executor).call("sleep", tags=tuple(tags), level=2)

    return discard


def _engine_sleep(original: Callable[..., Any]) -> Callable[..., Any]:
    def sleep(core: Any, level: int = 1, mode: str = "abort") -> Any:
        if not sleeps_with_hardpoint(core.vllm_config):
            return original(core, level, mode)
        # A second sleep changes nothing, and a scheduler that was paused before stays so.
        paused_before = core.is_scheduler_paused()
        others = list(core._idle_state_callbacks)  # of a `/pause` that waits too
        try:
            pending = original(core, level, mode)
        except Exception:
            _after_failure(core, paused_before)
            raise
        if not isinstance(pending, Future):
            return pending
        own = [one for one in core._idle_state_callbacks if not any(one is other for other in others)]
        core.hardpoint_pending_sleep = Waiting(pending, own, paused_before)
        pending.add_done_callback(lambda done: _after_drain(core, done, paused_before))
        return pending

    return sleep


def _after_drain(core: Any, done: Future[Any], paused_before: bool) -> None:
    core.hardpoint_pending_sleep = None
    if not done.cancelled() and done.exception() is not None:
        _after_failure(core, paused_before)


def _engine_wake(original: Callable[..., Any]) -> Callable[..., Any]:
    def wake_up(core: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(core, *args, **kwargs)
        except Exception:
            if sleeps_with_hardpoint(core.vllm_config):
                _after_failure(core, paused_before=True)
            raise

    return wake_up


def _after_failure(core: Any, paused_before: bool) -> None:
    """Requests go on where nothing has changed, and get an error where nothing will ever go on."""
    from hardpoint_vllm.sleep.requests import end_all

    end_all(core)
    if not paused_before and roll_of(core.model_executor).unchanged():
        core.resume_scheduler()


def _cancel(core: Any, sentence: str) -> bool:
    """Give up a sleep that still waits for running requests; they go on. False if it is past that point."""
    waiting: Waiting | None = getattr(core, "hardpoint_pending_sleep", None)
    if waiting is None or waiting.future.done():
        return False
    # A caller of `/pause` may wait for the same idle moment: the sleep takes its own callbacks away and no others.
    core._idle_state_callbacks[:] = [
        one for one in core._idle_state_callbacks if not any(one is own for own in waiting.callbacks)
    ]
    core.hardpoint_pending_sleep = None
    if not waiting.paused_before:
        core.resume_scheduler()
    waiting.future.set_exception(LifecycleError(sentence))
    return True


def _core_health(core: Any) -> dict[str, Any]:
    """For ``/health``: what the workers said last, and whether the engine is beyond repair."""
    roll = roll_of(core.model_executor)
    return {
        "failure": roll.failure,
        "sleeping": sorted(core.model_executor.sleeping_tags),
        "draining": getattr(core, "hardpoint_pending_sleep", None) is not None,
        "workers": [answer.health for answer in roll.answers],
        "undefined": roll.undefined(),
        "report": asdict(roll.report),
    }
