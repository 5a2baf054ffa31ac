"""`check_token_counts`: the numbers of one batch, FR4's among them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardpoint.attention import check_token_counts


def test_fr4_rank_0_counts_padding_as_tokens() -> None:
    (fault,) = check_token_counts(
        num_actual_tokens=30, query_start_loc=[0, 5, 10, 18, 26], seq_lens=[5, 5, 8, 8], hidden_rows=30
    )
    assert (fault.rule, fault.rows) == ("actual_tokens", range(26, 30))
    assert "num_actual_tokens is 30" in fault.sentence
    assert "ends at 26: rows 26 to 29" in fault.sentence


def test_fr4_rank_1_is_consistent() -> None:
    faults = check_token_counts(
        num_actual_tokens=30, query_start_loc=[0, 7, 12, 23, 30], seq_lens=[7, 5, 11, 7], hidden_rows=30
    )
    assert faults == ()


@pytest.mark.parametrize(
    ("rule", "rows", "numbers"),
    [
        ("starts", range(0), {"num_actual_tokens": 4, "query_start_loc": [1, 4]}),
        ("starts", range(0), {"num_actual_tokens": 0, "query_start_loc": []}),
        ("lengths", range(0), {"num_actual_tokens": 3, "query_start_loc": [0, 5, 3]}),
        ("requests", range(0), {"num_actual_tokens": 4, "query_start_loc": [0, 4], "seq_lens": [2, 2]}),
        ("context", range(1, 4), {"num_actual_tokens": 4, "query_start_loc": [0, 1, 4], "seq_lens": [9, 2]}),
        ("actual_tokens", range(2, 4), {"num_actual_tokens": 2, "query_start_loc": [0, 4]}),
        ("actual_tokens", range(4, 5), {"num_actual_tokens": 5, "query_start_loc": [0, 4]}),
        ("rows", range(3, 4), {"num_actual_tokens": 4, "query_start_loc": [0, 4], "hidden_rows": 3}),
    ],
)
def test_a_broken_rule_is_named_with_its_rows(rule: str, rows: range, numbers: dict[str, object]) -> None:
    faults = check_token_counts(**numbers)  # type: ignore[arg-type]
    assert [(fault.rule, fault.rows) for fault in faults] == [(rule, rows)]


def test_one_row_and_several_read_as_sentences() -> None:
    (one,) = check_token_counts(num_actual_tokens=5, query_start_loc=[0, 4])
    (two,) = check_token_counts(num_actual_tokens=6, query_start_loc=[0, 4])
    assert "row 4 is padding" in one.sentence
    assert "rows 4 to 5 are padding" in two.sentence


requests = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=6)


@given(requests=requests, padding=st.integers(0, 8), more=st.integers(-30, 8))
def test_only_the_true_count_is_consistent(requests: list[tuple[int, int]], padding: int, more: int) -> None:
    """`requests`: (context, query) tokens of each."""
    starts = [sum(query for _, query in requests[:index]) for index in range(len(requests) + 1)]
    said = max(starts[-1] + more, 0)
    faults = check_token_counts(
        num_actual_tokens=said,
        query_start_loc=starts,
        seq_lens=[context + query for context, query in requests],
        hidden_rows=max(starts[-1], said) + padding,
    )
    if said == starts[-1]:
        assert faults == ()
    else:
        (fault,) = faults
        assert fault.rule == "actual_tokens"
        assert fault.rows == range(min(said, starts[-1]), max(said, starts[-1]))
