"""A rank that cannot begin to take a stream says no, and goes on serving what it has."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from hardpoint import sync
from hardpoint.errors import SyncError
from hardpoint.sync.plan import Storages
from hardpoint.sync.remote import DataPlane, ReceiverLink, TrainerLink
from hardpoint.sync.transaction import Mode, Participant, Phase
from support.transaction_cluster import contents, empty, expected, fill, plan_of, tensors

WORLD, LAYOUT = "tp2", "vllm"


class Full(DataPlane):
    """Has no host memory left for what an update overwrites."""

    def keeper(self, live: Storages) -> Any:
        raise MemoryError("no host memory for the old values")


@pytest.mark.parametrize("full", [1, 2])
def test_no_memory_for_the_old_values_is_a_refusal(full: int) -> None:
    plan, meeting, ended = plan_of(WORLD, LAYOUT), sync.serve_store(), threading.Event()

    def never(*_: Any) -> Any:
        ended.wait(20)
        raise SyncError("nothing is sent here")

    storages = {rank: Storages(plan, rank, empty(plan, rank)) for rank in plan.shard_of}
    for rank, of in storages.items():
        fill(of, expected(WORLD, LAYOUT, 0)[rank])
    who = {rank: Participant(of) for rank, of in storages.items()}
    links = [
        ReceiverLink(one, meeting.store, "x", (Full if rank == full else DataPlane)(never)) for rank, one in who.items()
    ]
    trainer = TrainerLink(meeting.store, "x", DataPlane(never))
    try:
        outcome = trainer.update(plan, 1, tensors(1), mode=Mode.UNDO, deadline=5.0)
    finally:
        ended.set()
        trainer.close()
        for link in links:
            link.close()
    assert not outcome.committed
    assert "no host memory for the old values" in outcome.objections[full]
    assert who[full].phase is Phase.SERVING, who[full].reason
    assert contents(storages[full]) == expected(WORLD, LAYOUT, 0)[full]


def test_a_link_that_is_closed_in_an_update_leaves_it_with_the_old_weights() -> None:
    plan, meeting, ended, begun = plan_of("one rank", LAYOUT), sync.serve_store(), threading.Event(), threading.Event()

    def never(*_: Any) -> Any:
        begun.set()
        ended.wait(20)
        raise SyncError("nothing is sent here")

    live = Storages(plan, 1, empty(plan, 1))
    fill(live, expected("one rank", LAYOUT, 0)[1])
    who = Participant(live)
    link, trainer = (
        ReceiverLink(who, meeting.store, "x", DataPlane(never)),
        TrainerLink(meeting.store, "x", DataPlane(never)),
    )
    updating = threading.Thread(target=lambda: trainer.update(plan, 1, tensors(1), mode=Mode.UNDO, deadline=2.0))
    updating.start()
    try:
        assert begun.wait(10)
        link.close(10)
    finally:
        ended.set()
        updating.join(20)
        trainer.close()
    assert who.under_way is None and who.phase is Phase.SERVING
    assert contents(live) == expected("one rank", LAYOUT, 0)[1]
