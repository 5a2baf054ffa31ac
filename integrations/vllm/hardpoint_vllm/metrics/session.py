"""From calls around an update to numbers. Pure: a clock and the collectors come from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from hardpoint_vllm.metrics.collectors import Collectors

STEPS = {
    "init_weight_transfer_engine": "join",
    "start_weight_update": "start",
    "start_draft_weight_update": "start",
    "update_weights": "update",
    "finish_weight_update": "finish",
}


@dataclass
class SessionMetrics:
    """One front end's updates; calls come one after the other, as vLLM demands of a session."""

    collectors: Collectors
    clock: Callable[[], float]
    _started: float | None = field(default=None, init=False)

    def began(self, method: str) -> None:
        """`method` is about to be called."""
        if STEPS.get(method) == "start":
            self._started = self.clock()

    def answered(self, method: str, answers: Iterable[Any]) -> None:
        """`method` returned `answers`, one per worker; those of a commit hold its epoch and bytes."""
        facts = [answer for answer in answers if isinstance(answer, dict) and "epoch" in answer]
        if method not in STEPS or not facts:
            return
        self.collectors.updates.labels("committed").inc()
        self.collectors.bytes.inc(max(int(fact.get("bytes", 0)) for fact in facts))
        self.collectors.version.set(max(int(fact["epoch"]) for fact in facts))
        if self._started is not None:
            self.collectors.seconds.observe(self.clock() - self._started)
            self._started = None

    def failed(self, method: str) -> None:
        """`method` raised."""
        if method not in STEPS:
            return
        self.collectors.updates.labels("aborted").inc()
        self.collectors.aborts.labels(STEPS[method]).inc()
        self._started = None
