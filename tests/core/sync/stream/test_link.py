"""`CommunicatorLink`: an error names the ranks of the update, whatever a communicator calls them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hardpoint.errors import CommunicatorError, RankLost, SyncError
from hardpoint.sync.stream.link import CommunicatorLink


class _Failing:
    """A communicator that lost its own rank 1."""

    def __init__(self, error: CommunicatorError) -> None:
        self.error = error

    def broadcast(self, tensor: torch.Tensor, src: int, deadline: float | None = None) -> None:
        raise self.error

    def check(self) -> None:
        raise self.error

    def close(self) -> None:
        """Nothing is held."""


def lost() -> RankLost:
    return RankLost("rank 1 has closed", op="broadcast", sequence=4, missing=(1,), deadline=20.0)


def link(audience: tuple[int, ...], error: CommunicatorError) -> CommunicatorLink:
    return CommunicatorLink({audience: _Failing(error)})  # type: ignore[dict-item]  # no more of Broadcast is called


@pytest.mark.parametrize("call", ["send", "receive", "check"])
def test_a_lost_rank_has_the_number_that_it_has_in_the_update(call: str) -> None:
    made = link((2, 5), lost())
    arguments: tuple[Any, ...] = () if call == "check" else (torch.zeros(4, dtype=torch.uint8), (2, 5), 1.0)
    with pytest.raises(RankLost, match=r"rank 1 has closed.*rank 1 is rank 2, rank 2 is rank 5") as found:
        getattr(made, call)(*arguments)
    assert found.value.missing == (2,)
    assert (found.value.op, found.value.sequence, found.value.deadline) == ("broadcast", 4, 20.0)


def test_where_the_numbers_are_the_same_the_error_is_left_alone() -> None:
    error = lost()
    with pytest.raises(RankLost) as found:
        link((1, 2), error).check()
    assert found.value is error


def test_an_error_without_ranks_keeps_its_kind_and_a_long_audience_is_cut_short() -> None:
    with pytest.raises(CommunicatorError, match=r"broken.*rank 8 is rank 16 and so on up to rank 40") as found:
        link(tuple(range(2, 41, 2)), CommunicatorError("broken")).check()
    assert type(found.value) is CommunicatorError


def test_an_audience_without_a_communicator_is_said() -> None:
    with pytest.raises(SyncError, match=r"no communicator for the ranks \[3\]; it has \[2, 5\]"):
        link((2, 5), lost()).send(torch.zeros(1, dtype=torch.uint8), (3,), 1.0)
