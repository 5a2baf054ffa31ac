"""The comparison of two engines' answers: what is a tie of bf16, and what is a difference."""

from __future__ import annotations

import pytest

from hardpoint_vllm.demo.answers import NEAR_TIE, Answers, compare

PROMPTS = 4


def answers(rows: list[list[int]], runner_up: tuple[int, float] | None = None) -> Answers:
    """Every token with log-probability -0.1, and at every position the same runner-up, at a distance from it."""
    best = {} if runner_up is None else {runner_up[0]: -0.1 - runner_up[1]}
    return Answers(rows, [[-0.1] * len(row) for row in rows], [[best for _ in row] for row in rows] if best else [])


def test_equal_answers_are_the_same() -> None:
    rows = [[1, 2, 3]] * PROMPTS
    result = compare(answers(rows), answers(rows))
    assert result.same
    assert (result.positions, result.equal, result.ties, result.differing) == (12, 12, 0, 0.0)


def test_a_different_token_is_a_difference_and_says_where() -> None:
    result = compare(answers([[1, 2, 3]] * PROMPTS), answers([*[[1, 2, 3]] * 3, [1, 9, 3]]))
    assert not result.same
    assert result.first == "prompt 3, position 1: token 9 instead of 2"


@pytest.mark.parametrize(("distance", "tie"), [(0.0, True), (NEAR_TIE, True), (NEAR_TIE * 1.01, False)])
def test_a_runner_up_within_the_bound_is_a_tie(distance: float, tie: bool) -> None:
    reference = answers([[1, 2, 3]] * PROMPTS, (9, distance))
    result = compare(reference, answers([*[[1, 2, 3]] * 3, [1, 9, 7]]))
    assert result.same is tie
    assert result.ties == (1 if tie else 0)
    # What follows a tie has another context: it is not compared, and does not count as equal.
    assert result.positions == (10 if tie else 12)


def test_a_token_that_the_reference_does_not_rank_is_no_tie() -> None:
    reference = answers([[1, 2, 3]] * PROMPTS, (9, 0.0))
    assert not compare(reference, answers([*[[1, 2, 3]] * 3, [1, 8, 3]])).same


def test_a_tie_after_a_real_difference_excuses_nothing() -> None:
    reference = answers([[1, 2, 3]] * PROMPTS, (9, 0.0))
    assert compare(reference, answers([*[[1, 2, 3]] * 3, [8, 9, 3]])).ties == 0


def test_too_many_ties_are_a_difference() -> None:
    reference = answers([[1, 2, 3]] * PROMPTS, (9, 0.0))
    assert compare(reference, answers([*[[1, 2, 3]] * 3, [9, 2, 3]])).same
    assert not compare(reference, answers([*[[1, 2, 3]] * 2, *[[9, 2, 3]] * 2])).same


def test_ties_can_be_refused() -> None:
    reference = answers([[1, 2, 3]] * PROMPTS, (9, 0.0))
    assert not compare(reference, answers([*[[1, 2, 3]] * 3, [1, 2, 9]]), allow_ties=False).same


def test_nothing_compared_is_not_the_same() -> None:
    assert not compare(answers([[]]), answers([[]])).same


def test_answers_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        compare(answers([[1, 2]]), answers([[1]]))
