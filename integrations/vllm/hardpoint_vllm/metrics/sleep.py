"""Sleep and wake in Prometheus: state, seconds with the protocol apart, bytes, failures by reason.

They are counted in the front end that was asked, on the registry that is scraped; what happened in the workers comes
from the engine core's report.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any

from hardpoint_vllm.metrics.collectors import BUCKETS

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_logger = logging.getLogger("vllm.hardpoint.metrics")
STATES = ("awake", "draining", "asleep", "undefined", "failed")
TRANSITIONS = ("sleep", "wake")
PARTS = ("total", "memory", "protocol", "requests")
# Failures that no report of the engine core names.
DRAIN_DEADLINE = "drain_deadline"  # running requests did not finish in time
ENGINE_DEAD = "engine_dead"  # the engine core did not say


@dataclass(frozen=True)
class SleepCollectors:
    """Attributes:
    state: ``hardpoint:sleep_state``, label `state`: 1 for the one that holds, 0 for the others. `undefined` is awake
        without weights, after a level 2; `failed` ends with a new engine.
    seconds: ``hardpoint:sleep_seconds``, labels `transition` (sleep, wake) and `part`: total; memory, of the slowest
        worker; protocol (votes, synchronising); requests, the rest: finishing or aborting requests, caches, calls.
    bytes: ``hardpoint:sleep_bytes_total``, label `direction`: freed or restored, of all workers.
    failures: ``hardpoint:sleep_failures_total``, labels `transition` and `reason`: the worker's step that failed
        (drain, synchronize, save, unmap, map, restore, check_digest, vote ...), ask for a call that cannot be carried
        out, refused, drain_deadline, workers_lost, engine_failed, engine_dead.
    """

    state: Gauge
    seconds: Histogram
    bytes: Counter
    failures: Counter

    @classmethod
    def on(cls, registry: CollectorRegistry) -> SleepCollectors:
        """New ones on `registry`; a registry takes each name once."""
        from prometheus_client import Counter, Gauge, Histogram

        made = cls(
            state=Gauge(
                "hardpoint:sleep_state",
                "1 for the state of the engine: awake, draining, asleep, undefined (no weights yet) or failed.",
                ["state"],
                multiprocess_mode="mostrecent",
                registry=registry,
            ),
            seconds=Histogram(
                "hardpoint:sleep_seconds",
                "Seconds of completed sleeps and wakes, in all and by part.",
                ["transition", "part"],
                buckets=(0.001, 0.0025, 0.005, *BUCKETS),
                registry=registry,
            ),
            bytes=Counter(
                "hardpoint:sleep_bytes",
                "Bytes of all workers freed by sleep and restored by wake.",
                ["direction"],
                registry=registry,
            ),
            failures=Counter(
                "hardpoint:sleep_failures",
                "Sleeps and wakes that were not carried out, by reason.",
                ["transition", "reason"],
                registry=registry,
            ),
        )
        for direction in ("freed", "restored"):
            made.bytes.labels(direction)  # a counter that is there at 0 can be alerted on
        for transition in TRANSITIONS:
            made.failures.labels(transition, "vote")
        for state in STATES:
            made.state.labels(state).set(1.0 if state == "awake" else 0.0)
        return made


@dataclass
class SleepMetrics:
    """One front end's view. Pure but for the collectors, which come from outside."""

    collectors: SleepCollectors
    _number: int = field(default=0, init=False)

    def seen(self, health: Mapping[str, Any]) -> None:
        """The engine core's `health` as of now."""
        now = state_of(health)
        for state in STATES:
            self.collectors.state.labels(state).set(1.0 if state == now else 0.0)

    def ended(
        self,
        transition: str,
        seconds: float,
        health: Mapping[str, Any] | None,
        error: Exception | None = None,
        failure: str = "",
    ) -> None:
        """A sleep or wake came to its end after `seconds`; `failure` is a reason that the core does not know.

        `health` is the core's afterwards, None if it did not say.
        """
        report = (health or {}).get("report", {})
        # A call that the core refused by itself, or with nothing to do for the workers, leaves the report of old.
        news = report if report.get("number", 0) > self._number else {}
        self._number = max(self._number, report.get("number", 0))
        if health is not None:
            self.seen(health)
        if error is None and not news:
            return  # a pause (level 0) or its end: no worker was asked
        if error is not None:
            reason = failure or news.get("failed") or ("refused" if health is not None else ENGINE_DEAD)
            self.collectors.failures.labels(transition, reason).inc()
            return
        memory, protocol = news.get("memory", 0.0), news.get("protocol", 0.0)
        parts = (seconds, memory, protocol, max(seconds - memory - protocol, 0.0))
        for part, value in zip(PARTS, parts, strict=True):
            self.collectors.seconds.labels(transition, part).observe(value)
        self.collectors.bytes.labels("freed" if transition == "sleep" else "restored").inc(news.get("nbytes", 0))


def state_of(health: Mapping[str, Any]) -> str:
    """One of `STATES`, of what the engine core says."""
    if health["failure"]:
        return "failed"
    if any(worker.get("asleep") for worker in health["workers"]):
        return "asleep"
    if health["undefined"]:
        return "undefined"
    return "draining" if health["draining"] else "awake"


_made: SleepCollectors | None = None
_lock = Lock()


def sleep_metrics() -> SleepMetrics | None:
    """For one front end, on the registry that vLLM's own metrics are on; None, said aloud, if that refuses."""
    global _made
    with _lock:
        try:
            if _made is None:
                from prometheus_client import REGISTRY

                _made = SleepCollectors.on(REGISTRY)
            return SleepMetrics(_made)
        except Exception as error:  # noqa: BLE001 - a sleep must not fail for want of a metric
            _logger.warning("hardpoint: sleep and wake are not in Prometheus: %s", error)
            return None
