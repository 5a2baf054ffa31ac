"""A trainer that is interrupted (Ctrl-C, a progress callback that raises), and stores that cannot carry messages."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import FileStore

from hardpoint import sync
from hardpoint.errors import SyncError
from hardpoint.sync.remote import DataPlane, TrainerLink
from hardpoint.sync.remote.mailbox import Mailbox
from hardpoint.sync.transaction import Decision, MemoryRecord, Stage
from hardpoint.sync.transaction.messages import Decide, Message
from hardpoint.sync.transaction.wire import decode
from support.transaction_cluster import plan_of, tensors


def _no_link(*_: Any) -> Any:
    raise AssertionError("nothing is streamed here")


class Interrupted(TrainerLink):
    """Comes to a stage, with or without a decision, and is interrupted there."""

    decided = False

    def _run(self, coordinator: Any, session: str, epoch: int, *_: Any) -> None:
        coordinator.stage = Stage.VERIFY
        if self.decided:
            self._record.write(Decision(session, epoch, True))
        raise KeyboardInterrupt


@pytest.mark.parametrize("decided", [False, True], ids=["undecided", "decided"])
def test_an_interrupted_trainer_tells_what_was_decided_and_else_that_it_broke_off(decided: bool) -> None:
    plan = plan_of("tp2", "vllm")
    meeting = sync.serve_store()
    heard: dict[int, queue.SimpleQueue[bytes]] = {rank: queue.SimpleQueue() for rank in plan.shard_of}
    boxes = [Mailbox(meeting.store, "x", rank, heard[rank].put, lambda why: None) for rank in heard]
    record = MemoryRecord()
    link = Interrupted(meeting.store, "x", DataPlane(_no_link), record=record)
    link.decided = decided
    try:
        with pytest.raises(KeyboardInterrupt):
            link.update(plan, 3, tensors(1), session="aa")
        told: list[Message] = [decode(heard[rank].get(timeout=10)) for rank in heard]
    finally:
        link.close()
        for box in boxes:
            box.close()
    reason = "" if decided else "the trainer broke off"
    assert told == [Decide("aa", 0, 3, decided, reason)] * len(heard)
    assert record.read("aa") == Decision("aa", 3, decided, reason)


def test_a_store_without_queues_is_refused(tmp_path: Path) -> None:
    store = FileStore(str(tmp_path / "store"), 1)
    with pytest.raises(SyncError, match="has no queues, use a TCPStore"):
        Mailbox(store, "x", 0, lambda data: None, lambda why: None)
