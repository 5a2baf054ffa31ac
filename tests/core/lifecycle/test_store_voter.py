"""`StoreVoter`: votes of several ranks on one store, and what a lost store says."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from hardpoint.communicator.protocol import Verdict
from hardpoint.errors import LifecycleError
from hardpoint.lifecycle import StoreVoter


def together(
    store: object, said: dict[int, bool], operation: int, world: int = 2, deadline: float = 20.0
) -> list[Verdict]:
    """The verdicts of the ranks in `said`, each in a thread of its own."""
    verdicts: dict[int, Verdict] = {}

    def one(rank: int, ok: bool) -> None:
        voter = StoreVoter(store, rank, world)  # type: ignore[arg-type]
        voter.begin(operation)
        verdicts[rank] = voter.vote(ok, "unmap", reason="" if ok else "no memory", digest="d", deadline=deadline)

    threads = [threading.Thread(target=one, args=entry) for entry in said.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [verdicts[rank] for rank in said]


@pytest.fixture
def store(tmp_path: Path) -> dist.FileStore:
    return dist.FileStore(str(tmp_path / "store"), 2)


def test_all_ranks_get_one_verdict(store: dist.FileStore) -> None:
    assert [v.unanimous for v in together(store, {0: True, 1: True}, 1)] == [True, True]
    refused = together(store, {0: True, 1: False}, 2)
    assert refused[0] == refused[1]
    assert refused[0].objections == {1: "no memory"}


def test_a_vote_that_a_rank_missed_does_not_count_in_the_next_operation(store: dist.FileStore) -> None:
    (alone,) = together(store, {0: True}, 1, deadline=0.5)
    assert alone.missing == (1,)
    assert all(v.unanimous for v in together(store, {0: True, 1: True}, 2))


def test_a_lost_store_is_a_sentence() -> None:
    served = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    client = dist.TCPStore("127.0.0.1", served.port, is_master=False, timeout=timedelta(seconds=5))
    del served
    voter = StoreVoter(client, 0, 2)
    voter.begin(1)
    with pytest.raises(LifecycleError, match="the store of the votes cannot be reached"):
        voter.vote(True, "unmap", deadline=2.0)
