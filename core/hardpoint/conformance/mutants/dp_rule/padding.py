"""Tensors that are padded or cut wrongly."""

from __future__ import annotations

import torch

from hardpoint.conformance.mutants.dp_rule._plant import (
    as_if,
    plant,
)
from hardpoint.dp import DpPlan


class _DropsARow(DpPlan):
    def unpad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        return super().unpad(x, rank)[: max(self.num_actual_tokens[rank] - 1, 0)]


class _KeepsPadding(DpPlan):
    def unpad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        super().unpad(x, rank)
        return x


class _Garbage(DpPlan):
    def pad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        rows = torch.empty_like(super().pad(x, rank))
        rows[: x.shape[0]].copy_(x)
        return rows


class _Repeats(DpPlan):
    def pad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        rows = super().pad(x, rank)
        if x.shape[0]:
            rows[x.shape[0] :] = x[-1]
        return rows


class _Front(DpPlan):
    def pad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        rows = super().pad(x, rank)
        return torch.cat([rows[x.shape[0] :], x])

    def unpad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        super().unpad(x, rank)
        return x[x.shape[0] - self.num_actual_tokens[rank] :]


class _Same(DpPlan):
    def pad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        rows = super().pad(x, rank)
        return x if rows.shape[0] == x.shape[0] else rows


class _HidesNan(DpPlan):
    def pad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        rows = super().pad(x, rank)
        return rows.nan_to_num(nan=0.0) if rows.dtype.is_floating_point else rows


class _Float(DpPlan):
    def pad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        return super().pad(x, rank).to(torch.float32)


class _TwoDimensions(DpPlan):
    def pad(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        return super().pad(x.reshape(x.shape[0], -1), rank)


class _GatheredByActual(DpPlan):
    def unpad_gathered(self, x: torch.Tensor) -> torch.Tensor:
        super().unpad_gathered(x)
        return x[: sum(self.num_actual_tokens)]


class _GatheredUnordered(DpPlan):
    def unpad_gathered(self, x: torch.Tensor) -> torch.Tensor:
        super().unpad_gathered(x)
        return torch.cat([x[rows] for rows in reversed(self.slices)])


unpad_drops_a_row = plant(
    "unpad-drops-a-row", "unpad-inverts-pad", "Unpadding takes the last token off too.", as_if(_DropsARow)
)
unpad_keeps_padding = plant(
    "unpad-keeps-padding", "unpad-inverts-pad", "Unpadding leaves the padding on.", as_if(_KeepsPadding)
)
pad_garbage = plant("pad-garbage", "unpad-inverts-pad", "Padding is what the allocator left there.", as_if(_Garbage))
pad_repeats = plant("pad-repeats", "unpad-inverts-pad", "Padding repeats the last token.", as_if(_Repeats))
pad_in_front = plant("pad-in-front", "unpad-inverts-pad", "Padding is put before the tokens.", as_if(_Front))
pad_is_the_batch = plant(
    "pad-gives-the-batch-itself",
    "unpad-inverts-pad",
    "Where there is nothing to pad the batch itself is given, and what is written into one is in the other.",
    as_if(_Same),
)
pad_hides_nan = plant("pad-hides-nan", "unpad-inverts-pad", "Padding turns NaN of a token into zero.", as_if(_HidesNan))
pad_converts = plant("pad-converts", "unpad-inverts-pad", "Padding converts token ids to float32.", as_if(_Float))
pad_flattens = plant(
    "pad-flattens", "unpad-inverts-pad", "Padding makes a matrix of whatever it is given.", as_if(_TwoDimensions)
)
gathered_by_actual = plant(
    "gathered-cut-at-the-end",
    "unpad-inverts-pad",
    "The gathered tensor is cut at its end, as if all padding were there.",
    as_if(_GatheredByActual),
)
gathered_unordered = plant(
    "gathered-in-reverse", "unpad-inverts-pad", "Tokens of all ranks come in reverse order of ranks.",
    as_if(_GatheredUnordered),
)  # fmt: skip
