"""Ballots of an engine's workers: they travel whole, and one no or one other digest is a no for all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hardpoint_vllm.weight_transfer.agreement import Ballot, count


@given(st.text(max_size=400).map(lambda text: text.replace("\0", "")), st.text())
def test_a_ballot_survives_the_wire(reason: str, subject: str) -> None:
    ballot = Ballot.on(subject, reason)
    assert Ballot.from_tensor(ballot.to_tensor()) == ballot


def test_a_long_reason_is_cut_between_characters() -> None:
    ballot = Ballot.from_tensor(Ballot.on("x", "ü" * 5000).to_tensor())
    assert set(ballot.reason) == {"ü"}


@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_yes_only_if_all_say_yes(votes: list[bool]) -> None:
    ballots = [Ballot.on("update 3", "" if yes else "no room") for yes in votes]
    common = count(ballots, "tensor-parallel")
    assert bool(common.reason) == (not all(votes))
    if not all(votes) and len(votes) > 1:
        assert common.reason.startswith(f"tensor-parallel rank {votes.index(False)}: no room")


def test_different_updates_are_a_no() -> None:
    common = count([Ballot.on("update 3"), Ballot.on("update 3"), Ballot.on("update 4")], "pipeline")
    assert "ranks 0 and 2" in common.reason
