"""Votes: the pure decision, and the same verdict on every rank of real processes."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hardpoint.communicator.vote import Ballot, _decode, _encode, decide
from hardpoint.errors import CommunicatorError
from support.gloo import open_gloo
from support.ranks import RankPool

ballots = st.builds(
    Ballot, st.booleans(), st.sampled_from(["a", "b"]), st.text(max_size=5), st.sampled_from(["", "x", "y"])
)


@given(st.dictionaries(st.integers(0, 5), ballots))
def test_unanimous_means_all_came_said_yes_and_brought_one_digest(cast: dict[int, Ballot]) -> None:
    verdict = decide(cast, 6, "a")
    one = len({(ballot.ok, ballot.subject, ballot.digest) for ballot in cast.values()}) == 1
    assert verdict.unanimous == (len(cast) == 6 and one and cast[0].ok)
    assert set(verdict.missing) == set(range(6)) - set(cast)
    assert all(sentence for sentence in verdict.objections.values())
    assert {rank for rank, ballot in cast.items() if not ballot.ok} <= set(verdict.objections)
    assert _decode(_encode(verdict).encode()) == verdict


def test_the_odd_digest_is_named() -> None:
    verdict = decide({rank: Ballot(True, "s", "", "y" if rank == 0 else "x") for rank in range(4)}, 4, "s")
    assert list(verdict.objections) == [0]
    assert "digest y" in verdict.objections[0]


def _vote(store: Any, rank: int, world: int) -> list[Any]:
    comm = open_gloo(store, rank, world)
    seen = [comm.vote(True, "plain", digest="d")]
    seen.append(comm.vote(rank != 1, "no", reason="no room"))
    seen.append(comm.vote(True, "digests", digest="odd" if rank == world - 1 else "d"))
    seen.append(comm.vote(True, "late"[: rank + 1]))
    comm.barrier()
    seen += [comm.vote(True, "many") for _ in range(70)]
    comm.close()
    return seen


def test_same_verdict_everywhere(pool: RankPool) -> None:
    results = [result.unwrap() for result in pool.run(3, _vote)]
    assert results[0] == results[1] == results[2]
    plain, no, digests, subjects = results[0][:4]
    assert plain.unanimous
    assert no.objections == {1: "no room"}
    assert list(digests.objections) == [2]
    assert set(subjects.objections) == {1, 2}
    assert all(verdict.unanimous for verdict in results[0][4:])


def _host_dies(store: Any, rank: int, world: int, how: str) -> tuple[str, float]:
    import os
    import time

    comm = open_gloo(store, rank, world, deadline=3.0)
    comm.barrier()
    if rank == 0:
        os._exit(7)
    time.sleep(0.3)
    began = time.monotonic()
    try:
        comm.vote(True, "step") if how == "vote" else comm.barrier()
    except CommunicatorError as error:
        said = str(error)
    seconds = time.monotonic() - began
    comm.close()
    return said, seconds


def test_dead_store_host_is_said(pool: RankPool) -> None:
    for how in ("vote", "barrier"):
        for result in pool.run(3, _host_dies, how, host_rank=0)[1:]:
            said, seconds = result.unwrap()
            assert ("the process that serves it has ended" if how == "vote" else "rank 0 (pid") in said
            assert seconds < 4.0
