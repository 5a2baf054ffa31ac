"""Which rows and slots of a routing a rank computes, against a plain loop over tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardpoint_vllm.parallel.experts import local_rows, with_expert_map

EXPERTS = 6


def expert(number: int, row: torch.Tensor) -> torch.Tensor:
    """What expert `number` makes of a row."""
    return row * (number + 1) + number


class Stock:
    """The kernel's contract: local ids, every slot computed, weighted and summed; an id out of range is a crash."""

    def __init__(self, held: list[int]) -> None:
        self.held, self.computed = held, 0

    def apply(
        self, output: torch.Tensor, hidden: torch.Tensor, w1: object, w2: object, weights: torch.Tensor,
        ids: torch.Tensor, activation: str, experts: int, expert_map: None, *rest: object, **named: object,
    ) -> None:  # fmt: skip
        assert expert_map is None
        assert hidden.shape[0] == output.shape[0] == ids.shape[0]
        assert ids.dtype == torch.int32
        for row in range(hidden.shape[0]):
            output[row] = 0
            for slot in range(ids.shape[1]):
                local = int(ids[row, slot])
                assert 0 <= local < len(self.held), "the kernel would read past its weights"
                output[row] += weights[row, slot] * expert(self.held[local], hidden[row])
                self.computed += 1


routings = st.lists(st.lists(st.integers(-1, EXPERTS - 1), min_size=2, max_size=2, unique=True), min_size=0, max_size=6)


@given(routing=routings, held=st.lists(st.integers(0, EXPERTS - 1), min_size=1, max_size=EXPERTS, unique=True))
def test_ranks_together_compute_what_one_would(routing: list[list[int]], held: list[int]) -> None:
    others = [number for number in range(EXPERTS) if number not in held]
    hidden = torch.arange(len(routing) * 3.0).reshape(-1, 3)
    weights = torch.tensor([[0.75, 0.25]] * len(routing)).reshape(-1, 2)
    ids = torch.tensor(routing, dtype=torch.int32).reshape(-1, 2)
    total = torch.zeros(len(routing), 3)
    for mine in filter(None, (held, others)):
        expert_map = torch.tensor([mine.index(n) if n in mine else -1 for n in range(EXPERTS)])
        output = torch.full((len(routing), 3), float("nan"))
        Mapped = with_expert_map(Stock)
        Mapped(mine).apply(output, hidden, None, None, weights, ids, "silu", EXPERTS, expert_map)
        total += output
    expected = torch.zeros_like(total)
    for row, chosen in enumerate(routing):
        for slot, number in enumerate(chosen):
            if number >= 0:
                expected[row] += weights[row, slot] * expert(number, hidden[row])
    assert torch.allclose(total, expected)


def test_a_masked_slot_computes_an_expert_that_the_row_needs_anyway() -> None:
    # Expert 0 is here and infinite for these rows; row 1 does not choose it, and must not meet it with weight 0.
    expert_map = torch.tensor([0, 1, -1])
    ids = torch.tensor([[0, 2], [2, 1], [2, -1]], dtype=torch.int32)
    rows, weights, local = local_rows(torch.ones(3, 2), ids, expert_map)
    assert rows.tolist() == [0, 1]
    assert local.tolist() == [[0, 0], [1, 1]]
    assert weights.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert local.dtype == torch.int32


def test_no_row_here_is_all_zero_and_launches_nothing() -> None:
    stock = with_expert_map(Stock)([0])
    output = torch.full((2, 3), float("nan"))
    ids = torch.full((2, 2), 1, dtype=torch.int32)
    hidden = torch.ones(2, 3)
    stock.apply(output, hidden, None, None, torch.ones(2, 2), ids, "silu", 2, torch.tensor([0, -1]))
    assert output.eq(0).all()
    assert stock.computed == 0


def test_without_a_map_the_stock_class_is_called_as_it_is() -> None:
    stock = with_expert_map(Stock)([0, 1])
    output = torch.empty(1, 3)
    stock.apply(output, torch.ones(1, 3), None, None, torch.ones(1, 2), torch.tensor([[0, 1]], dtype=torch.int32),
                "silu", 2, None)  # fmt: skip
    assert output.tolist() == [[1.0 + 3.0] * 3]


def test_ids_past_the_weights_are_what_stock_would_read() -> None:
    with pytest.raises(AssertionError, match="read past its weights"):
        Stock([0]).apply(torch.empty(1, 3), torch.ones(1, 3), None, None, torch.ones(1, 1),
                         torch.tensor([[3]], dtype=torch.int32), "silu", 4, None)  # fmt: skip
