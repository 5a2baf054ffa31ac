"""The watch over device collectives, with works that are done when the test says so."""

from __future__ import annotations

import threading
import time

import pytest

from hardpoint.communicator.watch import Watch


class Work:
    """Stands for a torch.distributed work."""

    def __init__(self, done: bool = False) -> None:
        self.done = done

    def is_completed(self) -> bool:
        return self.done


def test_a_call_is_watched_from_before_it_is_issued() -> None:
    """NCCL connects inside the first collective: the host may be stuck there, with no work to look at."""
    late: list[tuple[int, str, float]] = []
    watch = Watch(lambda *call: late.append(call))
    watch.begin(3, "all_reduce sum", 0.0)
    watch.look()
    watch.look()
    assert late == [(3, "all_reduce sum", 0.0)]


def test_what_is_complete_or_dropped_is_never_late() -> None:
    late: list[object] = []
    watch = Watch(lambda *call: late.append(call))
    watch.begin(0, "broadcast", 0.0)(Work(done=True))
    watch.begin(1, "all_gather", 0.0)
    watch.drop(1)
    watch.begin(2, "barrier", 60.0)(Work())
    watch.look()
    assert late == []
    watch.drain(1)  # returns: everything up to number 1 is over


def test_who_waits_is_let_go_after_the_reason_is_known() -> None:
    """A barrier that was late returned as if all had come, when it was let go before the reason had been found."""
    known = threading.Event()

    def overdue(number: int, call: str, seconds: float) -> None:
        time.sleep(0.2)  # reading the ledger takes a while
        known.set()

    watch = Watch(overdue)
    watch.begin(0, "barrier", 0.0)(Work())
    looking = threading.Thread(target=watch.look)
    looking.start()
    watch.drain(0)
    assert known.is_set()
    looking.join(5)


def test_a_failure_while_finding_the_reason_lets_the_waiting_go() -> None:
    def overdue(number: int, call: str, seconds: float) -> None:
        raise RuntimeError("the store is gone")

    watch = Watch(overdue)
    watch.begin(0, "barrier", 0.0)(Work())
    with pytest.raises(RuntimeError, match="store is gone"):
        watch.look()
    watch.drain(0)


def test_a_wait_ends_when_its_work_does() -> None:
    watch, work = Watch(lambda *call: None), Work()
    watch.begin(0, "barrier", 60.0)(work)
    ended: list[float] = []
    waiting = threading.Thread(target=lambda: (watch.drain(0), ended.append(time.monotonic())))
    waiting.start()
    time.sleep(0.05)
    assert not ended
    work.done = True
    watch.look()
    waiting.join(5)
    assert ended
