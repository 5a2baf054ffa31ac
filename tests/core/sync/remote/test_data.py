"""The data plane of one process: what it holds between updates, and how a stream is stopped."""

from __future__ import annotations

import gc
import queue
import threading
import time
import weakref
from typing import Any

from hardpoint.sync.plan import Sources, Storages
from hardpoint.sync.remote import DataPlane
from hardpoint.sync.remote.data import Receiving, Sending, StreamOf
from hardpoint.sync.transaction.staging import Shadow, Undo
from support.threads_tape import Tape
from support.transaction_cluster import contents, empty, expected, fill, plan_of, tensors

WORLD, LAYOUT = "one rank", "vllm"
PLAN = plan_of(WORLD, LAYOUT)


def serving() -> Storages:
    live = Storages(PLAN, 1, empty(PLAN, 1))
    fill(live, expected(WORLD, LAYOUT, 0)[1])
    return live


def send(tape: Tape, of: StreamOf) -> weakref.ref[Any]:
    """Through a plane that stays; a reference to the first of the tensors, which nobody else holds."""
    heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
    mine = {name: tensor.clone() for name, tensor in tensors(1).items()}
    first = weakref.ref(next(iter(mine.values())))
    plane = DataPlane(lambda *_: tape)
    Sending(plane, "lane", of, Sources(PLAN, mine), heard.put, heard.put)
    assert isinstance(heard.get(timeout=20), tuple)
    send.plane = plane  # type: ignore[attr-defined]
    return first


def test_nothing_of_an_update_is_held_after_it() -> None:
    """A second copy that stayed would be a third one during the next update."""
    tape, of = Tape(), StreamOf("aa", 1, PLAN, 20.0)
    sent = send(tape, of)
    heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
    plane, staging = DataPlane(lambda *_: tape), Shadow(serving())
    staged = weakref.ref(staging.target.tensors[0])
    Receiving(plane, "lane", of, 1, staging, heard.put, heard.put, heard.put)
    assert isinstance(heard.get(timeout=20), dict)
    staging.commit()
    del staging
    until = time.monotonic() + 10
    while (sent() is not None or staged() is not None) and time.monotonic() < until:
        gc.collect()
        time.sleep(0.01)  # the threads are ending
    assert staged() is None and sent() is None


def test_a_stream_that_is_stopped_while_its_link_is_opened_writes_nothing_and_is_not_waited_for() -> None:
    tape, of, go_on = Tape(), StreamOf("aa", 1, PLAN, 20.0), threading.Event()
    send(tape, of)

    def opened(*_: Any) -> Tape:
        assert go_on.wait(20)
        return tape

    heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
    live = serving()
    staging = Undo(live)
    Receiving(DataPlane(opened), "lane", of, 1, staging, heard.put, heard.put, heard.put)
    began = time.monotonic()
    assert staging.abort()
    assert time.monotonic() - began < 5
    go_on.set()
    assert "the update ended before its stream began" in heard.get(timeout=20)
    assert contents(live) == expected(WORLD, LAYOUT, 0)[1]


def test_an_end_is_never_that_of_another_link() -> None:
    plane, of = DataPlane(lambda *_: Tape()), StreamOf("aa", 1, PLAN, 20.0)
    first, second = Tape(), Tape()
    assert plane.receiver(first, of, 1) is plane.receiver(first, of, 1)
    assert plane.receiver(second, of, 1)._link is second  # type: ignore[comparison-overlap]
