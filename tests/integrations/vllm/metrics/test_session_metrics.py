"""What an update does to the numbers that Prometheus scrapes, and where they are registered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

prometheus = pytest.importorskip("prometheus_client", reason="comes with vLLM")

from hardpoint_vllm.metrics import watch  # noqa: E402
from hardpoint_vllm.metrics.collectors import Collectors  # noqa: E402
from hardpoint_vllm.metrics.session import SessionMetrics  # noqa: E402


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def _made() -> tuple[Any, SessionMetrics, _Clock]:
    registry, clock = prometheus.CollectorRegistry(), _Clock()
    return registry, SessionMetrics(Collectors.on(registry), clock), clock


def test_they_are_there_before_the_first_update() -> None:
    registry, _, _ = _made()
    assert registry.get_sample_value("hardpoint:weight_updates_total", {"outcome": "committed"}) == 0
    assert registry.get_sample_value("hardpoint:weight_updates_total", {"outcome": "aborted"}) == 0
    assert registry.get_sample_value("hardpoint:weight_version") == -1
    assert registry.get_sample_value("hardpoint:weight_update_bytes_total") == 0


def test_a_committed_update_counts_seconds_bytes_and_version() -> None:
    registry, metrics, clock = _made()
    metrics.began("start_weight_update")
    clock.now += 1.5
    metrics.began("update_weights")
    metrics.answered("update_weights", [None, None])
    clock.now += 0.5
    metrics.answered("finish_weight_update", [{"epoch": 7, "bytes": 1000}, {"epoch": 7, "bytes": 1200}])
    value = registry.get_sample_value
    assert value("hardpoint:weight_updates_total", {"outcome": "committed"}) == 1
    assert value("hardpoint:weight_version") == 7
    assert value("hardpoint:weight_update_bytes_total") == 1200
    assert value("hardpoint:weight_update_seconds_sum") == 2.0
    assert value("hardpoint:weight_update_seconds_count") == 1


@pytest.mark.parametrize(
    ("method", "step"),
    [
        ("init_weight_transfer_engine", "join"),
        ("start_weight_update", "start"),
        ("update_weights", "update"),
        ("finish_weight_update", "finish"),
    ],
)
def test_an_abort_is_counted_by_its_step_and_changes_no_version(method: str, step: str) -> None:
    registry, metrics, _ = _made()
    metrics.began("start_weight_update")
    metrics.failed(method)
    metrics.answered("finish_weight_update", [None])
    value = registry.get_sample_value
    assert value("hardpoint:weight_update_aborts_total", {"step": step}) == 1
    assert value("hardpoint:weight_updates_total", {"outcome": "aborted"}) == 1
    assert value("hardpoint:weight_version") == -1
    assert value("hardpoint:weight_update_seconds_count") == 0


class _Engine:
    """What the wrapped method is called on."""

    def __init__(self, backend: str | None, fail: bool = False) -> None:
        config = None if backend is None else SimpleNamespace(backend=backend)
        self.vllm_config = SimpleNamespace(weight_transfer_config=config)
        self.fail = fail

    def collective_rpc(self, method: str, timeout: float | None = None) -> list[Any]:
        if self.fail:
            raise RuntimeError("no")
        return [{"epoch": 3, "bytes": 5}] if method == "finish_weight_update" else [None]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Any:
    found = prometheus.CollectorRegistry()
    made = Collectors.on(found)
    monkeypatch.setattr(watch, "collectors", lambda: made)
    return found


@pytest.mark.parametrize("asynchronous", [False, True])
def test_both_front_ends_count_and_pass_everything_on(registry: Any, asynchronous: bool) -> None:
    if asynchronous:

        async def slow(engine: _Engine, *args: Any, **kwargs: Any) -> list[Any]:
            return engine.collective_rpc(*args, **kwargs)

        wrapped = watch._around_async(slow)

        def call(*args: Any, **kwargs: Any) -> Any:
            return asyncio.run(wrapped(*args, **kwargs))
    else:
        call = watch._around(_Engine.collective_rpc)
    engine = _Engine("hardpoint")
    assert call(engine, "start_weight_update") == [None]
    assert call(engine, "finish_weight_update", timeout=3) == [{"epoch": 3, "bytes": 5}]
    engine.fail = True
    with pytest.raises(RuntimeError, match="no"):
        call(engine, "update_weights")
    value = registry.get_sample_value
    assert value("hardpoint:weight_version") == 3
    assert value("hardpoint:weight_update_aborts_total", {"step": "update"}) == 1


@pytest.mark.parametrize("backend", [None, "nccl"])
def test_other_engines_are_passed_by(registry: Any, backend: str | None) -> None:
    assert watch._around(_Engine.collective_rpc)(_Engine(backend), "finish_weight_update")
    assert registry.get_sample_value("hardpoint:weight_version") == -1


def test_other_calls_are_passed_by(registry: Any) -> None:
    with pytest.raises(RuntimeError):
        watch._around(_Engine.collective_rpc)(_Engine("hardpoint", fail=True), "sleep")
    assert registry.get_sample_value("hardpoint:weight_updates_total", {"outcome": "aborted"}) == 0


def test_a_registry_that_refuses_does_not_fail_the_update(
    monkeypatch: pytest.MonkeyPatch, heard: Callable[[str], list[str]]
) -> None:
    def refuse() -> Collectors:
        raise ValueError("Duplicated timeseries")

    monkeypatch.setattr(watch, "collectors", refuse)
    said = heard("vllm.hardpoint.metrics")
    assert watch._around(_Engine.collective_rpc)(_Engine("hardpoint"), "finish_weight_update")
    assert said == ["hardpoint: weight updates are not in Prometheus: Duplicated timeseries"]
