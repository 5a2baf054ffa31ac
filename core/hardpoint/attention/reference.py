"""`ReferenceAttentionBuffers`: the plain buffers, right on every device that torch runs on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

import torch

from hardpoint.attention.protocol import STATE_BUFFERS, BufferKind
from hardpoint.errors import AttentionError


@dataclass(frozen=True)
class ReferenceAttentionBuffers:
    """Buffers by torch operations alone. A count on the host costs one fill of the tail; one on the device a `where`.

    Attributes:
        poison: fill new buffers with NaN instead of leaving or clearing them; for tests.
    """

    poison: bool = False

    def allocate(
        self, kind: BufferKind, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        """See `AttentionBuffers.allocate`."""
        if kind not in get_args(BufferKind):
            raise AttentionError(f"a buffer is one of {', '.join(get_args(BufferKind))}, got {kind!r}")
        if self.poison:
            return torch.full(tuple(shape), poison_value(dtype), dtype=dtype, device=device)
        if kind in STATE_BUFFERS:
            return torch.zeros(tuple(shape), dtype=dtype, device=device)
        return torch.empty(tuple(shape), dtype=dtype, device=device)

    def finish(
        self,
        output: torch.Tensor,
        num_actual_tokens: int | torch.Tensor | None,
        *,
        query_start_loc: Sequence[int] | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See `AttentionBuffers.finish`."""
        if type(num_actual_tokens) is int and query_start_loc is None and output.dim():
            # The way of every eager layer, before anything else: one slice and one fill, or nothing at all.
            rows = output.shape[0]
            if 0 <= num_actual_tokens <= rows:
                if num_actual_tokens < rows:
                    output[num_actual_tokens:].zero_()
                return output
        if output.dim() == 0:
            raise AttentionError("a token buffer has one row per token, got a tensor without dimensions")
        if num_actual_tokens is None:
            return output.zero_()
        ends: list[int | torch.Tensor] = [num_actual_tokens]
        if query_start_loc is not None:
            if len(query_start_loc) == 0:
                raise AttentionError("query_start_loc holds at least its leading 0, got an empty one")
            ends.append(query_start_loc[-1])
        for end in ends:
            if not isinstance(end, torch.Tensor) and not 0 <= end <= output.shape[0]:
                raise AttentionError(
                    f"the buffer of shape {tuple(output.shape)} holds 0 to {output.shape[0]} tokens, but "
                    f"num_actual_tokens or the end of query_start_loc is {end}; allocate it for the padded batch"
                )
        hosted = [end for end in ends if not isinstance(end, torch.Tensor)]
        if len(hosted) == len(ends):
            output[min(hosted) :].zero_()
            return output
        # Counts on the device stay there: reading them would wait for the device, and a graph could not be captured.
        row = torch.arange(output.shape[0], device=output.device)
        keep = torch.ones_like(row, dtype=torch.bool)
        for end in ends:
            bound = end.reshape(()).to(output.device) if isinstance(end, torch.Tensor) else end
            keep = keep & (row < bound)
        return output.copy_(self.mask_rows(output, keep))

    def mask_rows(self, rows: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        """See `AttentionBuffers.mask_rows`."""
        if keep.dtype != torch.bool or keep.shape != rows.shape[:1]:
            raise AttentionError(
                f"a row mask for {tuple(rows.shape)} is bool of shape {tuple(rows.shape[:1])}, got {keep.dtype} of "
                f"shape {tuple(keep.shape)}"
            )
        # `where`, never `rows * keep`: 0 x NaN is NaN (vLLM issue 41249).
        return torch.where(keep.reshape(-1, *([1] * (rows.dim() - 1))), rows, torch.zeros_like(rows))

    def read_state(self, state: torch.Tensor, slots: torch.Tensor, has_initial_state: torch.Tensor) -> torch.Tensor:
        """See `AttentionBuffers.read_state`."""
        rows = state.index_select(0, slots.clamp(min=0))
        return self.mask_rows(rows, has_initial_state.to(torch.bool) & (slots >= 0))

    def reset_state(self, state: torch.Tensor, slots: Sequence[int] | torch.Tensor) -> None:
        """See `AttentionBuffers.reset_state`."""
        if isinstance(slots, torch.Tensor):
            slot = torch.arange(state.shape[0], device=state.device)
            kept = (slot[:, None] != slots.to(state.device)[None, :]).all(dim=1)
            state.copy_(self.mask_rows(state, kept))
            return
        for index in slots:
            if not -1 <= index < state.shape[0]:
                raise AttentionError(
                    f"state of shape {tuple(state.shape)} has slots 0 to {state.shape[0] - 1}, and -1 for padding, "
                    f"got {index}"
                )
        for index in slots:
            if index >= 0:
                state[index].zero_()

    def poisoned(self) -> ReferenceAttentionBuffers:
        """See `AttentionBuffers.poisoned`."""
        return replace(self, poison=True)


def poison_value(dtype: torch.dtype) -> float | int | bool:
    """What an unwritten element shows: NaN, or the largest value where there is none."""
    if dtype == torch.bool:
        return True
    if dtype.is_floating_point or dtype.is_complex:
        return float("nan")
    return int(torch.iinfo(dtype).max)
