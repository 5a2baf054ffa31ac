"""`DpPlan`: padding adds rows of zeros, unpadding takes exactly those off."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardpoint.dp import DpPlan, DpRule, GraphMode
from hardpoint.errors import DpError

PLAN = DpRule().plan([3, 0, 5], 1, GraphMode.FULL, expert_parallel=True)


def batch(rank: int, count: int, trailing: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Rows that say whose they are; the last one of a float batch is NaN."""
    size = count * int(torch.tensor(trailing).prod()) if trailing else count
    x = (torch.arange(size) + 100 * rank + 1).to(dtype).reshape(count, *trailing)
    if count and dtype.is_floating_point:
        x[-1] = float("nan")
    return x


@given(
    tokens=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    multiple=st.sampled_from([1, 4]),
    uniform=st.booleans(),
    trailing=st.sampled_from([(), (1,), (2, 3)]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.int64]),
)
def test_unpad_inverts_pad(
    tokens: list[int], multiple: int, uniform: bool, trailing: tuple[int, ...], dtype: torch.dtype
) -> None:
    rule = DpRule("max" if uniform else "none", multiple, "never")
    plan = rule.plan(tokens)
    batches = [batch(rank, count, trailing, dtype) for rank, count in enumerate(tokens)]
    padded = [plan.pad(x, rank) for rank, x in enumerate(batches)]
    for rank, (x, rows) in enumerate(zip(batches, padded, strict=True)):
        assert (rows.shape[0], rows.dtype) == (plan.num_padded_tokens[rank], dtype)
        assert torch.equal(rows[x.shape[0] :], torch.zeros_like(rows[x.shape[0] :]))
        torch.testing.assert_close(plan.unpad(rows, rank), x, rtol=0, atol=0, equal_nan=True)
    gathered = plan.unpad_gathered(torch.cat(padded))
    torch.testing.assert_close(gathered, torch.cat(batches), rtol=0, atol=0, equal_nan=True)


def test_padding_is_a_copy_and_unpadding_a_view() -> None:
    x = torch.ones(5, 2)
    rows = PLAN.pad(x, 2)
    rows.fill_(2.0)
    assert torch.equal(x, torch.ones(5, 2))
    PLAN.unpad(rows, 2).fill_(3.0)
    assert torch.equal(rows, torch.full((5, 2), 3.0))


def test_slices_skip_the_padding_of_the_ranks_before() -> None:
    assert PLAN.slices == (slice(0, 3), slice(5, 5), slice(10, 15))
    assert (PLAN.world_size, PLAN.runs, PLAN.uniform) == (3, True, True)
    assert not DpPlan((1, 2), (1, 2), (False, False)).uniform


@pytest.mark.parametrize(("rows", "rank"), [(2, 0), (4, 0), (3, -1), (3, 3)])
def test_a_batch_of_other_rows_or_another_rank_is_not_padded(rows: int, rank: int) -> None:
    with pytest.raises(DpError, match=f"rank {rank}"):
        PLAN.pad(torch.ones(rows, 2), rank)


def test_tensors_of_other_lengths_are_not_unpadded() -> None:
    with pytest.raises(DpError, match="5 padded tokens"):
        PLAN.unpad(torch.ones(4, 2), 0)
    with pytest.raises(DpError, match="15 padded tokens"):
        PLAN.unpad_gathered(torch.ones(14, 2))
    with pytest.raises(DpError, match="rank 0 has 3 actual tokens"):
        PLAN.pad(torch.tensor(1.0), 0)
