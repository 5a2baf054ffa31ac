"""`explain_nan`: the log of field report 4 leads to its two origins, and what it cannot show is said."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from hardpoint.explain import explain_nan
from hardpoint.explain.explanation import rows_in_words
from hardpoint.probe import Ranks
from support import fr4_reports


def test_the_log_of_fr4_has_two_origins() -> None:
    found = explain_nan(fr4_reports.log())
    padding, state = found.origins
    assert found.summary == (
        "It began at 2 places: padding rows 26-29 counted as real on dp_rank 0; "
        "86 elements after GDN layer 1 in decode on dp_rank 1."
    )
    assert padding.title == "padding rows 26-29 counted as real on dp_rank 0"
    assert "8192 values of [30, 2048] after attention layer 3" in padding.evidence[0]
    assert any(fr4_reports.MISCOUNTED in line for line in padding.evidence)
    assert any("query_start_loc ends at 26 and num_actual_tokens says 30" in line for line in padding.evidence)
    assert "query_start_loc[-1]" in padding.advice
    assert state.title == "86 elements after GDN layer 1 in decode on dp_rank 1"
    assert any("86 of 2048 in row 2" in line for line in state.evidence)
    assert any("separate origin" in line and "not from padding rows 26-29" in line for line in state.evidence)
    assert any("never initialised" in line and "MoE combine" in line for line in state.unproven)


def test_what_came_after_is_not_an_origin() -> None:
    found = explain_nan(fr4_reports.log())
    assert len(found.followed) == 3
    assert found.followed[0].endswith("rows 26-29, after padding rows 26-29 counted as real on dp_rank 0.")
    assert found.followed[2].endswith("row 2, after 86 elements after GDN layer 1 in decode on dp_rank 1.")


def test_the_order_of_the_files_does_not_matter() -> None:
    reports = fr4_reports.log()[:5]
    first = explain_nan(reports)
    assert all(explain_nan(list(order)) == first for order in permutations(reports))


def test_what_no_file_shows_is_said() -> None:
    lines = explain_nan(fr4_reports.log()).unproven
    assert any("reports once" in line for line in lines)
    assert any("Steps are counted per process" in line for line in lines)
    lines = explain_nan([each for each in fr4_reports.log() if each.ranks.dp == 1]).unproven
    assert any(line.startswith("No report of dp_rank 0") for line in lines)


def test_a_wrong_count_without_a_nan_is_an_origin_too() -> None:
    found = explain_nan(fr4_reports.log()[:1])
    assert "it would become one" in found.summary
    assert [origin.title for origin in found.origins] == ["padding rows 26-29 counted as real on dp_rank 0"]


def test_rows_past_the_tokens_that_are_counted_right_were_not_zeroed() -> None:
    report = replace(fr4_reports.log()[1], num_actual_tokens=26)
    (origin,) = explain_nan([report]).origins
    assert origin.title == "padding rows 26-29 not zeroed on dp_rank 0"
    assert "AttentionBuffers.finish" in origin.rule


def test_real_rows_after_attention_are_the_kernels() -> None:
    report = replace(fr4_reports.log()[1], rows=(3,), counts=(7,))
    (origin,) = explain_nan([report]).origins
    assert origin.title == "7 elements after attention layer 3 in prefill on dp_rank 0"
    assert origin.unproven


def test_an_input_that_was_never_clean_has_no_origin() -> None:
    report = fr4_reports.report(0, 0, 0, "gdn", "before", rows={1: 3}, input_clean=None)
    found = explain_nan([report])
    assert found.origins == ()
    assert "began where nobody looked" in found.summary
    assert any("a layer that is not watched, from the embedding" in line for line in found.unproven)


def test_nothing_to_explain() -> None:
    assert explain_nan([]).summary.startswith("No report of values that are no numbers")


def test_the_first_difference_to_a_clean_run() -> None:
    bad = fr4_reports.log()
    clean = [replace(bad[0], finding="batch", faults=(), num_actual_tokens=26, shape=(26,))]
    assert explain_nan(bad, clean).differences == (
        "dp_rank 0 (tp 0, pp 0, ep 0), first prefill step: num_actual_tokens is 30, in the clean run 26.",
    )
    same = [replace(bad[0], finding="batch", faults=())]
    assert explain_nan(bad, same).differences[0].startswith("The first batches of both runs have the same counts")
    elsewhere = [replace(bad[0], ranks=Ranks(dp=7))]
    assert explain_nan(bad, elsewhere).differences[0].startswith("The first batches")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ((26, 27, 28, 29), "rows 26-29"),
        ((2,), "row 2"),
        ((1, 3, 4), "rows 1, 3-4"),
        ((), "no row"),
        (tuple(range(0, 40, 2)), "rows 0, 2, 4, 6, 8, ... 38"),
    ],
)
def test_rows_in_words(rows: tuple[int, ...], words: str) -> None:
    assert rows_in_words(rows) == words
