"""`DpPlan`: actual and padded token counts of one step, and the padding itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hardpoint.errors import DpError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DpPlan:
    """One step of a data-parallel group; the same on every rank.

    Attributes:
        num_actual_tokens: per rank, what attention metadata must say: the end of its `query_start_loc`.
        num_padded_tokens: per rank, rows of its hidden states in this step.
        dummy_forward: per rank, True if it has no tokens and runs all the same, on padding alone.
    """

    num_actual_tokens: tuple[int, ...]
    num_padded_tokens: tuple[int, ...]
    dummy_forward: tuple[bool, ...]

    @property
    def world_size(self) -> int:
        return len(self.num_padded_tokens)

    @property
    def runs(self) -> bool:
        """False only if no rank has a token: then no rank runs."""
        return any(self.num_padded_tokens)

    @property
    def uniform(self) -> bool:
        """All ranks have the same padded count."""
        return len(set(self.num_padded_tokens)) == 1

    @property
    def slices(self) -> tuple[slice, ...]:
        """Per rank, where its actual rows are in the gathered tensor ``[sum(num_padded_tokens), ...]``."""
        starts = [sum(self.num_padded_tokens[:rank]) for rank in range(self.world_size)]
        return tuple(slice(start, start + actual) for start, actual in zip(starts, self.num_actual_tokens, strict=True))

    def pad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        """`x` ``[num_actual_tokens[rank], ...]`` with rows of zeros up to ``num_padded_tokens[rank]``; a new tensor."""
        actual, padded = self._counts(rank)
        if x.dim() == 0 or x.shape[0] != actual:
            raise DpError(
                f"data-parallel rank {rank} has {actual} actual tokens in this plan, but the tensor to pad has shape "
                f"{tuple(x.shape)}"
            )
        rows = x.new_zeros((padded, *x.shape[1:]))
        rows[:actual].copy_(x)
        return rows

    def unpad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        """The actual rows of `x` ``[num_padded_tokens[rank], ...]``: a view of ``[num_actual_tokens[rank], ...]``."""
        actual, padded = self._counts(rank)
        if x.dim() == 0 or x.shape[0] != padded:
            raise DpError(
                f"data-parallel rank {rank} has {padded} padded tokens in this plan, but the tensor to unpad has shape "
                f"{tuple(x.shape)}"
            )
        return x[:actual]

    def unpad_gathered(self, x: torch.Tensor) -> torch.Tensor:
        """Actual rows of all ranks, in rank order, out of the gathered `x` ``[sum(num_padded_tokens), ...]``."""
        import torch

        total = sum(self.num_padded_tokens)
        if x.dim() == 0 or x.shape[0] != total:
            raise DpError(f"the plan gathers {total} padded tokens, but the tensor to unpad has shape {tuple(x.shape)}")
        return torch.cat([x[rows] for rows in self.slices])

    def _counts(self, rank: int) -> tuple[int, int]:
        if not 0 <= rank < self.world_size:
            raise DpError(f"the plan has data-parallel ranks 0 to {self.world_size - 1}, got rank {rank}")
        return self.num_actual_tokens[rank], self.num_padded_tokens[rank]
