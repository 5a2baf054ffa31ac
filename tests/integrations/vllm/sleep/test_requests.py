"""What becomes of a request that an engine cannot take: the core answers, and the reader gets a typed error."""

from __future__ import annotations

import asyncio
import queue
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the integration is tested beside vLLM")

from hardpoint.errors import LifecycleError
from hardpoint_vllm.sleep import requests
from hardpoint_vllm.sleep.core import _cancel, _engine_sleep, roll_of


class _Scheduler:
    def __init__(self) -> None:
        self.requests: dict[str, Any] = {}
        self.finished: list[str] = []

    def finish_requests(self, names: list[str], status: Any) -> list[Any]:
        self.finished += names
        return [self.requests[name] for name in names]


def made_core(sleeping: bool, backend: str = "hardpoint") -> Any:
    model = SimpleNamespace(enable_sleep_mode=True, sleep_mode_backend=backend)
    executor = SimpleNamespace(is_sleeping=sleeping)
    config = SimpleNamespace(model_config=model)
    return SimpleNamespace(
        vllm_config=config, model_executor=executor, output_queue=queue.Queue(), scheduler=_Scheduler()
    )


def request(name: str, pooled: bool = False) -> Any:
    return SimpleNamespace(request_id=name, client_index=3, pooling_params=object() if pooled else None)


def added(core: Any, one: Any) -> list[Any]:
    """What arrives in the scheduler."""
    taken: list[Any] = []
    requests.around_add(lambda core, one, wave=0: taken.append(one))(core, one, 7)
    return taken


@pytest.mark.parametrize("state", ["sleeping", "going to sleep"])
def test_the_core_refuses_if_asked_for_and_says_so_to_the_client_that_sent_it(
    monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    monkeypatch.setenv("HARDPOINT_SLEEP_REQUESTS", "refuse")
    core = made_core(sleeping=state == "sleeping")
    core.hardpoint_pending_sleep = object() if state != "sleeping" else None
    assert added(core, request("a")) == []
    client, outputs = core.output_queue.get_nowait()
    assert client == 3
    assert outputs.finished_requests == {"a"}
    assert outputs.outputs[0].request_id == "a"
    assert "takes no requests: wake it" in outputs.outputs[0].stop_reason


@pytest.mark.parametrize(
    ("word", "sleeping", "backend"),
    [("wait", True, "hardpoint"), ("refuse", False, "hardpoint"), ("refuse", True, "cumem")],
)
def test_all_others_are_taken(monkeypatch: pytest.MonkeyPatch, word: str, sleeping: bool, backend: str) -> None:
    monkeypatch.setenv("HARDPOINT_SLEEP_REQUESTS", word)
    core = made_core(sleeping, backend)
    assert len(added(core, request("a"))) == 1
    assert core.output_queue.empty()


def test_a_failed_engine_refuses_whatever_the_option_and_ends_what_it_holds() -> None:
    core = made_core(sleeping=False)
    roll_of(core.model_executor).failure = "the worker of rank 1 has ended: SIGKILL"
    assert added(core, request("new")) == []
    assert "rank 1 has ended" in core.output_queue.get_nowait()[1].outputs[0].stop_reason
    core.scheduler.requests = {"held": request("held"), "pooled": request("pooled", pooled=True)}
    requests.end_all(core)
    assert core.scheduler.finished == ["held"]
    assert "given up: the worker of rank 1" in core.output_queue.get_nowait()[1].outputs[0].stop_reason


def test_requests_of_an_engine_that_has_not_failed_are_not_ended() -> None:
    core = made_core(sleeping=True)
    core.scheduler.requests = {"held": request("held")}
    requests.end_all(core)
    assert core.scheduler.finished == []


def _output(reason: str | int | None) -> Any:
    return SimpleNamespace(outputs=[SimpleNamespace(stop_reason=None), SimpleNamespace(stop_reason=reason)])


@pytest.mark.parametrize("early", [False, True])
def test_the_reader_gets_a_typed_error(early: bool) -> None:
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.output_processor import RequestOutputCollector

    async def read() -> Any:
        collector = RequestOutputCollector(RequestOutputKind.DELTA, "a")
        refused = _output(requests._MARK + "the engine sleeps")
        if early:
            collector.put(refused)
        requests.checked(collector)
        if not early:
            collector.put(refused)
        return await collector.get()

    with pytest.raises(LifecycleError, match=r"^the engine sleeps$") as raised:
        asyncio.run(read())
    assert raised.value.http_status == 503  # type: ignore[attr-defined]


@pytest.mark.parametrize("reason", [None, 7, "stop word"])
def test_other_outputs_pass(reason: str | int | None) -> None:
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.output_processor import RequestOutputCollector

    async def read() -> Any:
        collector = requests.checked(RequestOutputCollector(RequestOutputKind.DELTA, "a"))
        collector.put(expected)
        return await collector.get()

    expected = _output(reason)
    assert asyncio.run(read()) is expected


@pytest.mark.parametrize("paused_before", [False, True])
def test_a_sleep_that_is_given_up_leaves_the_pause_that_waits_beside_it(paused_before: bool) -> None:
    """Stock registers one idle callback for each; the pause's caller must still hear that the engine came to rest."""
    core = made_core(sleeping=False)
    paused, resumed = Future[None](), []
    core._idle_state_callbacks = [lambda engine: paused.set_result(None)]
    core.is_scheduler_paused = lambda: paused_before
    core.resume_scheduler = lambda: resumed.append(True)

    def stock(core: Any, level: int, mode: str) -> Future[None]:
        core._idle_state_callbacks.append(lambda engine: pytest.fail("the sleep was given up"))
        return Future()

    pending = _engine_sleep(stock)(core, 1, "wait")
    assert _cancel(core, "it missed its deadline")
    with pytest.raises(LifecycleError, match="it missed its deadline"):
        pending.result(0)
    for callback in core._idle_state_callbacks:
        callback(core)
    assert paused.done()
    assert bool(resumed) is not paused_before
    assert not _cancel(core, "again")
