"""Different and right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch

from hardpoint.attention import AttentionBuffers, BufferKind
from hardpoint.conformance.mutants.attention_buffers._plant import (
    Count,
    Starts,
    beside,
    clears,
    legal_variant,
    reading,
    real_end,
    reset_slots,
    resets,
    rows_kept,
    used_slots,
)


def _zeroed(
    base: AttentionBuffers, kind: BufferKind, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    if kind not in get_args(BufferKind):
        return base.allocate(kind, shape, dtype=dtype, device=device)
    return torch.zeros(tuple(shape), dtype=dtype, device=device)


zeroed_first = legal_variant(
    "zeroed-first", "Every new buffer is zero in whole, token buffers too: slower, and right.", allocate=_zeroed
)


def _carved(
    base: AttentionBuffers, kind: BufferKind, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    whole = base.allocate(kind, (-(-max(shape[0], 1) // 8) * 8, *shape[1:]), dtype=dtype, device=device)
    return whole[: shape[0]]


padded_storage = legal_variant(
    "storage-of-a-multiple",
    "Storage has a multiple of eight rows, and a buffer is a view of the rows asked for.",
    allocate=_carved,
)


def _filled(
    base: AttentionBuffers, output: torch.Tensor, count: Count, *, query_start_loc: Starts = None
) -> torch.Tensor:
    if count is None:
        return output.fill_(0)
    base.finish(torch.empty_like(output), count, query_start_loc=query_start_loc)
    keep = rows_kept(output.shape[0], output.device, real_end(output, count, query_start_loc))
    return output.masked_fill_(beside(keep, output).logical_not(), 0)


mask_always = legal_variant(
    "finish-by-mask", "The tail is filled under a mask made on the host, with a wait for the device.", finish=_filled
)
negative_zero = legal_variant(
    "negative-zero",
    "What is cleared is -0.0, which is zero.",
    finish=clears(lambda output, end: output[end:].fill_(-0.0), without_metadata=True),
    mask_rows=lambda base, rows, keep: torch.where(beside(keep, rows), rows, torch.full_like(rows, -0.0)),
)
whole_copy = legal_variant(
    "cleared-through-a-copy",
    "The real rows are kept aside, the whole buffer is cleared, and they are put back.",
    finish=clears(lambda output, end: _around(output, end)),
)


def _around(output: torch.Tensor, end: int) -> None:
    real = output[:end].clone()
    output.zero_()
    output[:end].copy_(real)


slot_by_slot = legal_variant(
    "state-read-slot-by-slot",
    "State is read with one copy per request, and reset with one fill per slot.",
    reset_state=resets(lambda state, slots: reset_slots(state, used_slots(slots))),
    read_state=reading(
        lambda state, slots, has: torch.stack(
            [
                state[slot].clone() if known and slot >= 0 else torch.zeros_like(state[0])
                for slot, known in zip(slots.tolist(), has.tolist(), strict=True)
            ]
        )
    ),
)
