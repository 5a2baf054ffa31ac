"""`ReferenceAttentionBuffers` on the host: what no kernel wrote is zero, what one wrote is untouched."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardpoint.attention import (
    STATE_BUFFERS,
    TOKEN_BUFFERS,
    AttentionBuffers,
    BufferKind,
    ReferenceAttentionBuffers,
    poison_value,
)
from hardpoint.errors import AttentionError

CPU = torch.device("cpu")
BUFFERS = ReferenceAttentionBuffers()
NAN = float("nan")


def written(rows: int, real: int, trailing: tuple[int, ...] = (3,)) -> torch.Tensor:
    """A poisoned token buffer of `rows` rows whose first `real` rows hold 1, 2, 3, ..."""
    buffer = BUFFERS.poisoned().allocate("output", (rows, *trailing), dtype=torch.float32, device=CPU)
    for row in range(real):
        buffer[row] = row + 1
    return buffer


def row_values(buffer: torch.Tensor) -> list[float]:
    """The one value of each row."""
    flat = buffer.reshape(buffer.shape[0], math.prod(buffer.shape[1:]))
    assert bool((flat == flat[:, :1]).all())
    return [float(value) for value in flat[:, 0]]


def test_it_is_what_the_protocol_asks() -> None:
    assert isinstance(BUFFERS, AttentionBuffers)


@pytest.mark.parametrize("kind", TOKEN_BUFFERS)
def test_poisoned_token_buffers_hold_nan(kind: BufferKind) -> None:
    assert bool(BUFFERS.poisoned().allocate(kind, (2, 3), dtype=torch.bfloat16, device=CPU).isnan().all())


@pytest.mark.parametrize("kind", STATE_BUFFERS)
def test_state_is_zero_unless_poisoned(kind: BufferKind) -> None:
    state = BUFFERS.allocate(kind, (2, 3), dtype=torch.float16, device=CPU)
    assert (state.dtype, state.tolist()) == (torch.float16, [[0.0] * 3] * 2)
    assert bool(BUFFERS.poisoned().allocate(kind, (2, 3), dtype=torch.float16, device=CPU).isnan().all())


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(AttentionError, match="'kv'"):
        BUFFERS.allocate("kv", (1,), dtype=torch.float32, device=CPU)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dtype", "value"), [(torch.bool, True), (torch.int8, 127), (torch.int32, 2**31 - 1), (torch.uint8, 255)]
)
def test_integers_are_poisoned_with_their_largest_value(dtype: torch.dtype, value: int) -> None:
    assert poison_value(dtype) == value
    assert math.isnan(poison_value(torch.float32))


@given(
    real=st.integers(0, 6),
    padding=st.integers(0, 6),
    trailing=st.sampled_from([(), (1,), (2, 3)]),
    on_device=st.booleans(),
)
def test_the_tail_is_zero_and_the_rest_untouched(
    real: int, padding: int, trailing: tuple[int, ...], on_device: bool
) -> None:
    buffer = written(real + padding, real, trailing)
    count = torch.tensor(real) if on_device else real
    assert BUFFERS.finish(buffer, count) is buffer
    assert row_values(buffer) == [row + 1 for row in range(real)] + [0.0] * padding


@given(
    lengths=st.lists(st.integers(0, 5), max_size=4),
    counted=st.integers(-3, 4),
    count_on=st.booleans(),
    starts_on=st.booleans(),
)
def test_the_smaller_of_count_and_query_start_loc_decides(
    lengths: list[int], counted: int, count_on: bool, starts_on: bool
) -> None:
    starts = [sum(lengths[:request]) for request in range(len(lengths) + 1)]
    said = max(starts[-1] + counted, 0)
    real, rows = min(starts[-1], said), max(starts[-1], said)
    buffer = written(rows, real)
    BUFFERS.finish(
        buffer,
        torch.tensor([said]) if count_on else said,
        query_start_loc=torch.tensor(starts) if starts_on else starts,
    )
    assert row_values(buffer) == [row + 1 for row in range(real)] + [0.0] * (rows - real)


@pytest.mark.parametrize(
    ("starts", "zero_rows"), [([0, 5, 10, 18, 26], [26, 27, 28, 29]), ([0, 7, 12, 23, 30], [])], ids=["rank0", "rank1"]
)
def test_fr4_both_ranks(starts: list[int], zero_rows: list[int]) -> None:
    buffer = written(30, starts[-1], (2048,))
    BUFFERS.finish(buffer, 30, query_start_loc=starts)
    assert not bool(buffer.isnan().any())
    assert [row for row, value in enumerate(row_values(buffer)) if value == 0.0] == zero_rows


def test_a_nan_that_a_kernel_computed_stays() -> None:
    buffer = written(3, 2)
    buffer[0] = NAN
    BUFFERS.finish(buffer, 2)
    assert bool(buffer[0].isnan().all())
    assert row_values(buffer[1:]) == [2.0, 0.0]


def test_without_metadata_everything_is_zero() -> None:
    assert row_values(BUFFERS.finish(written(4, 4), None)) == [0.0] * 4


@pytest.mark.parametrize(
    ("count", "starts", "named"),
    [(5, None, "is 5"), (-1, None, "is -1"), (4, [0, 9], "is 9"), (4, [], "query_start_loc")],
)
def test_impossible_counts_are_refused_and_change_nothing(count: int, starts: list[int] | None, named: str) -> None:
    buffer = written(4, 4)
    with pytest.raises(AttentionError, match=named):
        BUFFERS.finish(buffer, count, query_start_loc=starts)
    assert row_values(buffer) == [1.0, 2.0, 3.0, 4.0]


def test_a_buffer_without_rows_is_refused() -> None:
    with pytest.raises(AttentionError, match="without dimensions"):
        BUFFERS.finish(torch.tensor(1.0), 0)


@given(keep=st.lists(st.booleans(), max_size=6), garbage=st.sampled_from([NAN, float("inf"), float("-inf"), -3.0]))
def test_masks_select_and_do_not_multiply(keep: list[bool], garbage: float) -> None:
    rows = torch.tensor([[row + 1.0 if kept else garbage] * 2 for row, kept in enumerate(keep)]).reshape(len(keep), 2)
    masked = BUFFERS.mask_rows(rows, torch.tensor(keep, dtype=torch.bool))
    assert row_values(masked) == [row + 1.0 if kept else 0.0 for row, kept in enumerate(keep)]
    assert masked.data_ptr() != rows.data_ptr() or not keep


@pytest.mark.parametrize("keep", [torch.ones(2), torch.ones(3, dtype=torch.bool), torch.ones(2, 1, dtype=torch.bool)])
def test_a_mask_of_another_dtype_or_shape_is_refused(keep: torch.Tensor) -> None:
    with pytest.raises(AttentionError, match="bool of shape"):
        BUFFERS.mask_rows(torch.ones(2, 3), keep)


@given(
    reads=st.lists(st.tuples(st.integers(-1, 3), st.booleans()), min_size=1, max_size=6),
)
def test_only_own_initial_state_is_read(reads: list[tuple[int, bool]]) -> None:
    used = {slot for slot, has in reads if has}
    state = torch.tensor([[slot + 1.0 if slot in used else NAN] * 2 for slot in range(4)])
    rows = BUFFERS.read_state(
        state, torch.tensor([slot for slot, _ in reads]), torch.tensor([has for _, has in reads], dtype=torch.bool)
    )
    assert row_values(rows) == [slot + 1.0 if has and slot >= 0 else 0.0 for slot, has in reads]


@given(slots=st.lists(st.integers(-1, 3), max_size=5), on_device=st.booleans())
def test_a_reset_clears_its_slots_and_no_other(slots: list[int], on_device: bool) -> None:
    state = torch.full((4, 2), 7.0)
    state[[slot for slot in slots if slot >= 0]] = NAN
    BUFFERS.reset_state(state, torch.tensor(slots, dtype=torch.int64) if on_device else slots)
    assert row_values(state) == [0.0 if slot in slots else 7.0 for slot in range(4)]


@pytest.mark.parametrize("slots", [[4], [-2], [0, 9]])
def test_a_slot_that_is_not_there_is_refused_before_any_is_cleared(slots: list[int]) -> None:
    state = torch.full((4, 2), 7.0)
    with pytest.raises(AttentionError, match=f"got {slots[-1]}"):
        BUFFERS.reset_state(state, slots)
    assert row_values(state) == [7.0] * 4
