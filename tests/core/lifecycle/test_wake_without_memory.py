"""Memory that is not there at wake or stays after sleep: named with rank and step, and nothing is lost."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from hardpoint.device import HostDevice
from hardpoint.errors import LifecycleError
from hardpoint.lifecycle import HostMemoryMap, Lifecycle, LifecycleParts, StoreVoter, pages

WORLD = 2
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="host memory is given back on Linux only")


class Refusing(HostMemoryMap):
    """A system that has no memory when asked while `full`."""

    full = False

    def map(self, tags: Sequence[str]) -> None:
        if self.full:
            raise torch.OutOfMemoryError("mapping 4 MiB: the device has 1 MiB free")
        super().map(tags)


class Rank:
    def __init__(self, rank: int, store: dist.Store) -> None:
        self.memory, self.tensor = Refusing(), torch.full((1 << 20,), float(rank))
        self.memory.adopt("weights", {"w13_weight": self.tensor})
        self.voter = StoreVoter(store, rank, WORLD)
        self.lifecycle = Lifecycle(LifecycleParts(memory=self.memory, device=HostDevice(), voter=self.voter))
        self.error: LifecycleError | None = None


def together(ranks: list[Rank], kind: str, number: int) -> None:
    """All ranks sleep or wake at once; each keeps what it was told."""

    def one(rank: Rank) -> None:
        rank.voter.begin(number)
        rank.error = None
        try:
            getattr(rank.lifecycle, kind)(op_id=number)
        except LifecycleError as error:
            rank.error = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


@pytest.fixture
def ranks(tmp_path: Path) -> list[Rank]:
    path = str(tmp_path / "store")
    return [Rank(number, dist.FileStore(path, WORLD)) for number in range(WORLD)]


def test_a_rank_without_memory_at_wake_is_named_its_copy_kept_and_the_next_wake_works(ranks: list[Rank]) -> None:
    together(ranks, "sleep", 1)
    assert [rank.error for rank in ranks] == [None, None]
    ranks[1].memory.full = True
    together(ranks, "wake", 2)
    for rank in ranks:
        assert "rank 1 objects: map: OutOfMemoryError: mapping 4 MiB" in str(rank.error)
        assert "the rank is ASLEEP" in str(rank.error)
        assert rank.lifecycle.health().asleep == ("weights",)
        assert rank.lifecycle.health().healthy
        assert all(held.saved and not held.mapped for held in rank.memory.holders())
    ranks[1].memory.full = False
    together(ranks, "wake", 3)
    for number, rank in enumerate(ranks):
        assert rank.error is None
        assert rank.lifecycle.health().serving
        assert torch.equal(rank.tensor, torch.full((1 << 20,), float(number)))


def test_memory_that_stays_after_sleep_is_listed_and_both_ranks_serve_on(
    ranks: list[Rank], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_MADV_DONTNEED", 0)  # a system that answers yes and takes nothing back
    together(ranks, "sleep", 1)
    for number, rank in enumerate(ranks):
        assert "rank 0 objects: unmap: LifecycleError: " in str(rank.error)
        assert "bytes are still in memory" in str(rank.error)
        assert "largest holders: weights/w13_weight #0 (" in str(rank.error)
        assert rank.lifecycle.health().serving
        assert torch.equal(rank.tensor, torch.full((1 << 20,), float(number)))
