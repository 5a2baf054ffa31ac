"""Every collective x a rank that dies, hangs, leaves or does something else: survivors end in time and say who."""

from __future__ import annotations

import pytest

from hardpoint.communicator import Verdict
from hardpoint.errors import CollectiveMismatch, DeadlineExceeded, RankLost
from support.gloo import DEADLINE, OPS, faults
from support.ranks import RankPool


def survivors(
    pool: RankPool, world: int, cases: list[tuple[str, str, int]]
) -> list[tuple[tuple[str, str, int], tuple]]:
    """(case, (seconds, error or verdict, next call's error)) of every rank that was not the bad one."""
    results = pool.run(world, faults, cases, deadline=60.0)
    found = []
    for number, case in enumerate(cases):
        for rank in range(world):
            if rank != case[2]:
                found.append((case, results[rank].unwrap()[number]))
    assert len(found) == len(cases) * (world - 1)
    return found


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("bad", [0, 2])
def test_killed_rank_is_named_before_the_deadline(pool: RankPool, op: str, bad: int) -> None:
    for _, (seconds, error, after) in survivors(pool, 3, [(op, "kill", bad)]):
        assert isinstance(error, RankLost), error
        assert error.missing == (bad,)
        assert error.op == op
        assert error.sequence == 1
        assert f"rank {bad}" in str(error)
        assert "died" in str(error)
        assert seconds < DEADLINE + 1
        assert "broken" in after
        assert op in after


@pytest.mark.parametrize("op", OPS)
def test_hung_rank_is_named_at_the_deadline(pool: RankPool, op: str) -> None:
    for case, (seconds, error, after) in survivors(pool, 3, [(op, "hang", 1)]):
        assert isinstance(error, DeadlineExceeded), error
        assert not isinstance(error, RankLost)
        assert error.missing == (case[2],)
        assert DEADLINE - 0.1 <= seconds < DEADLINE + 1
        assert "alive and has not called it" in str(error)
        assert "last finished call number 0, barrier" in str(error)
        assert "broken" in after


def test_rank_that_closes_its_communicator_is_named(pool: RankPool) -> None:
    for case, (seconds, error, _) in survivors(pool, 3, [(op, "raise", 1) for op in OPS]):
        assert isinstance(error, RankLost), error
        assert error.missing == (case[2],)
        assert "closed its communicator" in str(error)
        assert seconds < DEADLINE + 1


def test_other_op_or_shape_is_said_in_words_at_once(pool: RankPool) -> None:
    cases = [(op, "other op", bad) for op in OPS for bad in (0, 2)]
    cases += [(op, "other shape", 1) for op in OPS if op != "barrier"]
    for (op, _, bad), (seconds, error, after) in survivors(pool, 3, cases):
        assert isinstance(error, CollectiveMismatch), error
        assert f"rank {bad} calls number 1" in str(error) or f"rank {bad}" in str(error)
        assert op in str(error)
        assert seconds < DEADLINE
        assert "broken" in after


@pytest.mark.parametrize(("fault", "bad"), [("hang", 0), ("hang", 2), ("raise", 1), ("kill", 0), ("kill", 2)])
def test_vote_ends_without_the_absent_rank_and_is_the_same_everywhere(pool: RankPool, fault: str, bad: int) -> None:
    verdicts = []
    for _, (seconds, verdict, _) in survivors(pool, 3, [("vote", fault, bad)]):
        assert isinstance(verdict, Verdict), verdict
        assert not verdict.unanimous
        assert verdict.missing == (bad,)
        assert seconds < DEADLINE + 1
        verdicts.append(verdict)
    assert verdicts[0] == verdicts[1]
