"""`poisoned_memory`: what nobody wrote is seen, what was written is not touched."""

from __future__ import annotations

import threading

import pytest
import torch

from hardpoint.attention import ReferenceAttentionBuffers
from hardpoint.attention.poison import poisoned_memory


def makers() -> dict[str, object]:
    like = torch.zeros(2, 3)
    return {
        "empty": lambda: torch.empty(2, 3),
        "empty in bfloat16": lambda: torch.empty((2, 3), dtype=torch.bfloat16),
        "empty_like": lambda: torch.empty_like(like),
        "empty_strided": lambda: torch.empty_strided((2, 3), (1, 2)),
        "new_empty": lambda: like.new_empty((2, 3)),
    }


@pytest.mark.parametrize("name", makers())
def test_what_is_empty_is_nan(name: str) -> None:
    make = makers()[name]
    with poisoned_memory():
        assert make().isnan().all()  # type: ignore[operator]


def test_integers_hold_what_no_index_may_be_and_meta_is_left_alone() -> None:
    with poisoned_memory():
        assert torch.empty(2, dtype=torch.int32).tolist() == [2**31 - 1] * 2
        assert torch.empty(2, dtype=torch.bool).all()
        assert torch.empty(2, device="meta").shape == (2,)


def test_what_is_written_stays_and_the_mode_ends() -> None:
    with poisoned_memory():
        assert torch.zeros(2).eq(0).all()
        assert torch.full((2,), 3.0).eq(3).all()
        assert torch.ones(2).clone().eq(1).all()
    with poisoned_memory():
        pass
    seen: list[bool] = []
    with poisoned_memory():
        thread = threading.Thread(target=lambda: seen.append(bool(torch.zeros(1).isnan())))
        thread.start()
        thread.join()
    assert seen == [False]


def attention(buffers: ReferenceAttentionBuffers, *, finish: bool) -> torch.Tensor:
    """A layer that writes 26 of 30 rows, and a residual that takes all of them."""
    output = buffers.allocate("output", (30, 8), dtype=torch.bfloat16, device=torch.device("cpu"))
    output[:26] = 1.0
    return torch.ones(30, 8, dtype=torch.bfloat16) + (buffers.finish(output, 26) if finish else output)


def test_a_tail_that_is_not_zeroed_fails_on_any_device() -> None:
    with poisoned_memory():
        assert attention(ReferenceAttentionBuffers(), finish=False)[26:].isnan().all()
        assert not attention(ReferenceAttentionBuffers(), finish=True).isnan().any()
