"""What is concluded from the ranks' last publications."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from hardpoint.communicator.diagnosis import Diagnosis, diagnose
from hardpoint.communicator.ledger import Identity, Progress

HERE = Identity.here()
BEAT = 0.25
ARRIVED = Progress(9, 5, "all_reduce", True, {5: "all_reduce"}, None, False)
BEFORE = replace(ARRIVED, sequence=4, call="barrier", inside=False, recent={4: "barrier"})


def judge(seen: Progress, silent: float = 0.0, identity: Identity = HERE) -> Diagnosis:
    return diagnose(5, "all_reduce", 0, {0: ARRIVED, 1: seen}, {0: HERE, 1: identity}, {1: silent}, BEAT)


def test_a_rank_that_arrived_is_not_missing() -> None:
    found = judge(ARRIVED)
    assert (found.missing, found.lost, found.other, found.sentences) == ((), (), {}, {})


def test_a_rank_that_is_alive_and_has_not_called_is_missing_and_not_lost() -> None:
    found = judge(BEFORE)
    assert (found.missing, found.lost) == ((1,), ())
    assert "alive and has not called it; last finished call number 4, barrier" in found.sentences[1]


@pytest.mark.parametrize(("seconds", "lost"), [(0.9, False), (1.5, False), (4.5, False), (5.5, True)])
def test_only_a_long_silence_is_a_loss(seconds: float, lost: bool) -> None:
    found = judge(BEFORE, silent=seconds)
    assert found.missing == (1,)
    assert found.lost == ((1,) if lost else ())
    assert ("silent for" in found.sentences[1]) is (seconds > 4 * BEAT)


def test_a_dead_process_is_lost_without_any_silence() -> None:
    nobody = replace(HERE, pid=2**22 + 1)  # above the largest pid of Linux
    assert not os.path.exists(f"/proc/{nobody.pid}")  # noqa: PTH110
    found = judge(BEFORE, identity=nobody)
    assert found.lost == (1,)
    assert "has died" in found.sentences[1]


def test_a_pid_of_another_host_proves_nothing() -> None:
    found = judge(BEFORE, identity=replace(HERE, pid=2**22 + 1, host="elsewhere"))
    assert found.lost == ()


def test_another_call_under_the_same_number_is_named() -> None:
    found = judge(replace(ARRIVED, call="broadcast", recent={5: "broadcast"}))
    assert found.other == {1: "broadcast"}
    assert "is in broadcast as call number 5" in found.sentences[1]


@pytest.mark.parametrize("change", [{"closed": True}, {"broken": "out of memory"}])
def test_a_rank_that_gave_up_before_is_lost(change: dict[str, object]) -> None:
    found = judge(replace(BEFORE, **change))
    assert found.lost == (1,)
