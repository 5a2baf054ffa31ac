"""`Account`: where the seconds of an operation went, how many bytes moved, and which step failed here."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from hardpoint.communicator.protocol import Verdict
from hardpoint.device import HostDevice
from hardpoint.errors import LifecycleError
from hardpoint.lifecycle import Account, HostMemoryMap, IdleHost, Lifecycle, LifecycleParts


class Draining(IdleHost):
    def drain(self, deadline: float) -> None:
        time.sleep(0.05)


class Voter:
    """A rank beside another one, which is slow and says what `verdict` says."""

    rank = 0

    def __init__(self) -> None:
        self.verdict: Callable[[str], Verdict] = lambda subject: Verdict(True, subject, {}, ())

    def vote(self, ok: bool, subject: str, **_: Any) -> Verdict:
        time.sleep(0.02)
        return self.verdict(subject)


@pytest.fixture
def voter() -> Voter:
    return Voter()


@pytest.fixture
def lifecycle(voter: Voter) -> Lifecycle:
    memory = HostMemoryMap()
    memory.adopt("weights", {"w": tensor})
    return Lifecycle(LifecycleParts(memory=memory, device=HostDevice(), voter=voter, host=Draining()))


tensor = torch.arange(1 << 20, dtype=torch.float32)


def test_seconds_are_split_and_bytes_counted(lifecycle: Lifecycle) -> None:
    assert lifecycle.account() == Account()
    lifecycle.sleep()
    asleep = lifecycle.account()
    assert (asleep.kind, asleep.op_id, asleep.nbytes, asleep.failed) == ("sleep", 1, 4 << 20, "")
    assert asleep.engine >= 0.05
    assert asleep.protocol >= 0.04  # two votes
    assert asleep.memory > 0
    assert asleep.memory + asleep.engine + asleep.protocol == pytest.approx(asleep.total)
    assert set(asleep.steps) == {"close admission", "drain", "synchronize", "save", "unmap", "vote"}
    lifecycle.wake()
    awake = lifecycle.account()
    assert (awake.kind, awake.op_id, awake.nbytes, awake.failed) == ("wake", 2, 4 << 20, "")
    assert {"map", "restore", "check digest"} <= set(awake.steps)


def test_a_second_sleep_moves_nothing(lifecycle: Lifecycle) -> None:
    lifecycle.sleep()
    lifecycle.sleep()
    assert lifecycle.account().nbytes == 0
    lifecycle.wake()


def test_the_step_that_failed_here_is_named(
    lifecycle: Lifecycle, voter: Voter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tags: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(lifecycle._parts.memory, "save", full)
    voter.verdict = lambda subject: Verdict("unmapped" not in subject, subject, {0: "disk full"}, ())
    with pytest.raises(LifecycleError, match="rank 0 objects: disk full"):
        lifecycle.sleep()
    assert lifecycle.account().failed == "save"
    assert lifecycle.account().nbytes == 0


def test_a_call_that_this_rank_cannot_take_part_in_failed_in_asking(lifecycle: Lifecycle, voter: Voter) -> None:
    voter.verdict = lambda subject: Verdict(False, subject, {0: "unknown tag"}, ())
    with pytest.raises(LifecycleError, match="unknown tag"):
        lifecycle.sleep(["wieghts"])
    assert lifecycle.account().failed == "ask"


@pytest.mark.parametrize("how", ["missing", "lost"])
def test_a_vote_without_an_outcome_failed_in_the_vote(lifecycle: Lifecycle, voter: Voter, how: str) -> None:
    def verdict(subject: str) -> Verdict:
        if how == "lost":
            raise ConnectionError("the store is gone")
        return Verdict(False, subject, {}, (1,))

    voter.verdict = verdict
    with pytest.raises(LifecycleError, match=r"rank 1 did not vote|the store is gone"):
        lifecycle.sleep()
    assert lifecycle.account().failed == "vote"


def test_what_failed_on_another_rank_failed_not_here(lifecycle: Lifecycle, voter: Voter) -> None:
    voter.verdict = lambda subject: Verdict(False, subject, {1: "no memory"}, ())
    with pytest.raises(LifecycleError, match="rank 1 objects: no memory"):
        lifecycle.sleep()
    assert lifecycle.account().failed == ""


def test_holders_that_cannot_be_listed_are_said_and_undo_nothing(
    voter: Voter, monkeypatch: pytest.MonkeyPatch, heard: Callable[[str], list[str]]
) -> None:
    memory = HostMemoryMap()
    memory.adopt("weights", {"w": tensor})
    made = Lifecycle(LifecycleParts(memory=memory, device=HostDevice(), voter=voter, host=Draining()))
    said = heard("hardpoint.lifecycle")

    def refuse() -> Any:
        raise OSError("/proc is not mounted")

    monkeypatch.setattr(memory, "holders", refuse)
    made.sleep()
    assert made.account().nbytes == 0
    assert len(said) == 1
    assert "counts as 0 bytes, holders cannot be listed: /proc is not mounted" in said[0]
    made.wake()
