"""What sleep and wake do to the numbers that Prometheus scrapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

prometheus = pytest.importorskip("prometheus_client", reason="comes with vLLM")

from hardpoint_vllm.metrics import sleep  # noqa: E402
from hardpoint_vllm.metrics.sleep import SleepCollectors, SleepMetrics  # noqa: E402

ASLEEP, AWAKE = {"asleep": ("kv_cache", "weights")}, {"asleep": ()}


@pytest.fixture
def made() -> tuple[Callable[..., float | None], SleepMetrics]:
    registry = prometheus.CollectorRegistry()
    return registry.get_sample_value, SleepMetrics(SleepCollectors.on(registry))


def health(worker: dict[str, Any], number: int = 0, failed: str = "", **other: Any) -> dict[str, Any]:
    """What the engine core says, after call `number`."""
    report = {"number": number, "kind": "sleep", "failed": failed, "memory": 0.5, "protocol": 0.004, "nbytes": 1000}
    found = {"failure": "", "draining": False, "undefined": False, "workers": [worker, worker], "report": report}
    return found | other


def states(value: Callable[..., float | None]) -> list[str]:
    return [state for state in sleep.STATES if value("hardpoint:sleep_state", {"state": state})]


def test_they_are_there_before_the_first_sleep(made: Any) -> None:
    value, _ = made
    assert states(value) == ["awake"]
    assert value("hardpoint:sleep_bytes_total", {"direction": "freed"}) == 0
    assert value("hardpoint:sleep_bytes_total", {"direction": "restored"}) == 0
    assert value("hardpoint:sleep_failures_total", {"transition": "wake", "reason": "vote"}) == 0


def test_a_sleep_and_a_wake_count_seconds_by_part_and_bytes(made: Any) -> None:
    value, metrics = made
    metrics.ended("sleep", 2.0, health(ASLEEP, 1))
    assert states(value) == ["asleep"]
    metrics.ended("wake", 0.75, health(AWAKE, 2))
    assert states(value) == ["awake"]
    assert value("hardpoint:sleep_bytes_total", {"direction": "freed"}) == 1000
    assert value("hardpoint:sleep_bytes_total", {"direction": "restored"}) == 1000
    expected = {"total": 2.0, "memory": 0.5, "protocol": 0.004, "requests": 2.0 - 0.504}
    for part, seconds in expected.items():
        labels = {"transition": "sleep", "part": part}
        assert value("hardpoint:sleep_seconds_sum", labels) == pytest.approx(seconds), part
        assert value("hardpoint:sleep_seconds_count", labels) == 1
    assert value("hardpoint:sleep_seconds_sum", {"transition": "wake", "part": "total"}) == 0.75


@pytest.mark.parametrize(
    ("found", "failure", "reason"),
    [
        (health(AWAKE, 1, "unmap"), "", "unmap"),
        (health(AWAKE, 1, "ask"), "", "ask"),
        (health(AWAKE), sleep.DRAIN_DEADLINE, "drain_deadline"),
        (health(AWAKE), "", "refused"),
        (None, "", "engine_dead"),
    ],
)
def test_a_failure_is_counted_by_its_reason_and_moves_no_bytes(
    made: Any, found: dict[str, Any] | None, failure: str, reason: str
) -> None:
    value, metrics = made
    metrics.ended("sleep", 1.0, found, RuntimeError("no"), failure)
    assert value("hardpoint:sleep_failures_total", {"transition": "sleep", "reason": reason}) == 1
    assert value("hardpoint:sleep_bytes_total", {"direction": "freed"}) == 0
    assert value("hardpoint:sleep_seconds_count", {"transition": "sleep", "part": "total"}) is None


def test_a_report_counts_once(made: Any) -> None:
    value, metrics = made
    metrics.ended("sleep", 1.0, health(AWAKE, 1, "unmap"), RuntimeError("no"))
    metrics.ended("sleep", 1.0, health(AWAKE, 1, "unmap"), RuntimeError("a mode that does not exist"))
    assert value("hardpoint:sleep_failures_total", {"transition": "sleep", "reason": "unmap"}) == 1
    assert value("hardpoint:sleep_failures_total", {"transition": "sleep", "reason": "refused"}) == 1


def test_a_pause_is_no_sleep(made: Any) -> None:
    value, metrics = made
    metrics.ended("sleep", 1.0, health(AWAKE, draining=True))
    assert value("hardpoint:sleep_seconds_count", {"transition": "sleep", "part": "total"}) is None
    assert states(value) == ["draining"]


def test_lost_weights_and_a_failed_engine_are_states(made: Any) -> None:
    value, metrics = made
    metrics.seen(health(ASLEEP, undefined=True))
    assert states(value) == ["asleep"]
    metrics.seen(health(AWAKE, undefined=True))
    assert states(value) == ["undefined"]
    metrics.seen(health(AWAKE, failure="the worker of rank 1 has ended"))
    assert states(value) == ["failed"]


def test_a_registry_that_refuses_is_said_and_fails_nothing(
    monkeypatch: pytest.MonkeyPatch, heard: Callable[[str], list[str]]
) -> None:
    def refuse(registry: Any) -> SleepCollectors:
        raise ValueError("Duplicated timeseries")

    monkeypatch.setattr(sleep, "_made", None)
    monkeypatch.setattr(SleepCollectors, "on", refuse)
    said = heard("vllm.hardpoint.metrics")
    assert sleep.sleep_metrics() is None
    assert said == ["hardpoint: sleep and wake are not in Prometheus: Duplicated timeseries"]
