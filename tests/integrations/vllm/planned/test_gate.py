"""The gate between the thread that syncs and the worker's own."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from hardpoint.errors import SyncError
from hardpoint.sync.transaction import Ending, Room
from hardpoint_vllm.weight_transfer.planned.gate import Gate

GOOD, BAD = Ending("s", 3, True, "committed epoch 3"), Ending("s", 3, False, "aborted: NaN")


def gate(patience: float = 5.0) -> Gate:
    return Gate(lambda: Room(1, 0), lambda staged: None, patience, lambda sentence: None)


def test_an_update_waits_for_the_worker_and_says_what_to_call() -> None:
    with pytest.raises(SyncError, match="call start_weight_update and update_weights"):
        gate(0.05).pause()


def test_jobs_run_on_the_workers_thread_while_it_is_held() -> None:
    it = gate()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(it.wait, 5.0, lambda: 3)
        it.pause()
        it.pause()  # idempotent
        worker = it.run(threading.get_ident)
        assert worker != threading.get_ident()
        with pytest.raises(MemoryError, match="no room"):
            it.run(_fail)
        assert not waiting.done()
        it.resume()
        it.ended(GOOD)
        assert waiting.result(5.0) is GOOD
    with pytest.raises(SyncError, match="not at rest"):
        it.run(threading.get_ident)


def test_a_worker_is_not_let_go_while_an_update_is_under_way() -> None:
    it = gate()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(it.wait, 0.05, lambda: 3)
        it.pause()
        time.sleep(0.2)
        assert not waiting.done()
        it.resume()
        it.ended(BAD)
        assert waiting.result(5.0) is BAD


def test_nothing_comes_and_the_worker_goes_on() -> None:
    began = time.monotonic()
    assert gate().wait(0.1, lambda: None) is None
    assert time.monotonic() - began < 2


def test_an_ending_just_before_the_worker_came_is_told_and_an_old_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    it = gate()
    it.ended(BAD)
    assert it.wait(5.0, lambda: None) is BAD
    assert it.wait(0.05, lambda: None) is None, "told twice"
    it.ended(BAD)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 60)
    threading.Timer(0.1, lambda: monkeypatch.setattr(time, "monotonic", lambda: now + 120)).start()
    assert it.wait(1.0, lambda: None) is None


def test_another_epoch_than_the_caller_expects_is_refused() -> None:
    it = gate()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(it.wait, 5.0, lambda: 3, 4)
        with pytest.raises(SyncError, match="it is epoch 3, the caller of update_weights expects 4"):
            it.pause()
        it.resume()
        it.ended(BAD)
        assert waiting.result(5.0) is BAD


def test_another_epoch_is_refused_before_an_update_in_place_begins() -> None:
    it = gate()
    it.announce(3)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(it.wait, 5.0, lambda: None, 4)
        with pytest.raises(SyncError, match="it is epoch 3, the caller of update_weights expects 4"):
            it.pause()
        it.resume()
        it.ended(BAD)
        assert waiting.result(5.0) is BAD


def test_a_job_in_line_ends_when_the_worker_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    it = gate()
    wait = it._changed.wait
    worker: list[int] = []

    def interrupted(timeout: float | None = None) -> bool:
        answer = wait(timeout)
        if it._jobs and threading.get_ident() in worker:
            raise KeyboardInterrupt
        return answer

    def stand() -> None:
        worker.append(threading.get_ident())
        it.wait(5.0, lambda: 3)

    monkeypatch.setattr(it._changed, "wait", interrupted)
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(stand)
        it.pause()
        asked = pool.submit(it.run, threading.get_ident)
        with pytest.raises(SyncError, match="left the gate before it did what the update asked"):
            asked.result(5.0)
        with pytest.raises(KeyboardInterrupt):
            waiting.result(5.0)


def _fail() -> None:
    raise MemoryError("no room")
