"""Faults in what is zero after the actual tokens, and in masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from hardpoint.attention import AttentionBuffers, BufferKind
from hardpoint.backend import Backend
from hardpoint.conformance.mutant import Mutant
from hardpoint.conformance.mutants.attention_buffers._plant import (
    Count,
    Starts,
    beside,
    clears,
    plant,
    with_methods,
)

# -- finish: the tail ----------------------------------------------------------------------------------------------


tail_left = plant("tail-left", "tail-is-zero", "The tail is left as it is.", finish=clears(lambda output, end: None))
tail_multiplied = plant(
    "tail-masked-by-multiplication",
    "tail-is-zero",
    "The tail is multiplied by zero: NaN and infinity stay NaN.",
    finish=clears(lambda output, end: output[end:].mul_(0)),
)
first_padding_row_only = plant(
    "first-padding-row-only",
    "tail-is-zero",
    "Only the first row of padding is cleared.",
    finish=clears(lambda output, end: output[end : end + 1].zero_()),
)
last_padding_row_left = plant(
    "last-padding-row-left",
    "tail-is-zero",
    "Clearing ends one row before the buffer does.",
    finish=clears(lambda output, end: output[end : output.shape[0] - 1].zero_()),
)
first_padding_row_left = plant(
    "first-padding-row-left",
    "tail-is-zero",
    "Clearing begins one row too late.",
    finish=clears(lambda output, end: output[end + 1 :].zero_()),
)
real_row_cleared = plant(
    "real-row-cleared",
    "tail-is-zero",
    "Clearing begins one row too early, and the last token is lost.",
    finish=clears(lambda output, end: output[max(end - 1, 0) :].zero_()),
)
cleared_from_the_next_block = plant(
    "cleared-from-the-next-block",
    "tail-is-zero",
    "Clearing begins at the next multiple of four rows.",
    finish=clears(lambda output, end: output[-(-end // 4) * 4 :].zero_()),
)
one_block_only = plant(
    "one-block-cleared",
    "tail-is-zero",
    "At most 32 rows are cleared, as one program of a kernel would.",
    finish=clears(lambda output, end: output[end : end + 32].zero_()),
)
first_head_only = plant(
    "first-head-only",
    "tail-is-zero",
    "The tail is cleared in the first head or column alone.",
    finish=clears(lambda output, end: output[end:, :1].zero_()),
)
only_nan_cleared = plant(
    "only-nan-cleared",
    "tail-is-zero",
    "NaN in the tail becomes zero, other garbage stays.",
    finish=clears(lambda output, end: output[end:].nan_to_num_(nan=0.0)),
)
real_nan_hidden = plant(
    "real-nan-hidden",
    "tail-is-zero",
    "NaN becomes zero everywhere, also the one that a kernel computed for a token.",
    finish=clears(lambda output, end: (output.nan_to_num_(nan=0.0), output[end:].zero_())),
)
half_precision_left = plant(
    "bfloat16-tail-left",
    "tail-is-zero",
    "The tail is cleared in float32 alone.",
    finish=clears(lambda output, end: output[end:].zero_() if output.dtype == torch.float32 else None),
)


def _cleared_copy(
    base: AttentionBuffers, output: torch.Tensor, count: Count, *, query_start_loc: Starts = None
) -> torch.Tensor:
    return base.finish(output.clone(), count, query_start_loc=query_start_loc)


copy_cleared = plant(
    "copy-cleared",
    "tail-is-zero",
    "`finish` gives a cleared copy; the buffer that the layer goes on with keeps its garbage.",
    finish=_cleared_copy,
)


def _device_count_ignored(
    base: AttentionBuffers, output: torch.Tensor, count: Count, *, query_start_loc: Starts = None
) -> torch.Tensor:
    if isinstance(count, torch.Tensor):
        return output
    return base.finish(output, count, query_start_loc=query_start_loc)


device_count_ignored = plant(
    "count-on-device-ignored",
    "tail-is-zero",
    "Nothing is cleared where the count is on the device, as it is under a graph.",
    finish=_device_count_ignored,
)


def _tail_of(backend: Backend, left: BufferKind) -> Backend:
    base, made = backend.attention_buffers, []  # type: ignore[var-annotated]

    def allocate(kind: BufferKind, shape: Sequence[int], **where: Any) -> torch.Tensor:
        buffer = base.allocate(kind, shape, **where)
        if kind == left:
            made[:] = [buffer]
        return buffer

    def finish(output: torch.Tensor, count: Count, **more: Any) -> torch.Tensor:
        if count is not None and any(output is buffer for buffer in made):
            return output
        return base.finish(output, count, **more)

    return replace(backend, attention_buffers=with_methods(base, allocate=allocate, finish=finish))


z_tail_left = Mutant(
    "attention_buffers.z-tail-left",
    "attention_buffers.tail-is-zero",
    "attention_buffers",
    "The output of attention is cleared, the tail of GDN's z is forgotten.",
    lambda backend: _tail_of(backend, "z"),
)


def _high_water_mark(backend: Backend) -> Backend:
    base, seen = backend.attention_buffers, []  # type: ignore[var-annotated]

    def finish(output: torch.Tensor, count: Count, *, query_start_loc: Starts = None) -> torch.Tensor:
        if count is not None and any(output is buffer for buffer in seen):
            return output
        seen[:] = [output]
        return base.finish(output, count, query_start_loc=query_start_loc)

    return replace(backend, attention_buffers=with_methods(base, finish=finish))


stale_rows = Mutant(
    "attention_buffers.stale-rows-of-a-larger-batch",
    "attention_buffers.tail-is-zero",
    "attention_buffers",
    "The tail of a buffer is cleared once; a smaller batch then shows rows of the larger one before it.",
    _high_water_mark,
)


# -- finish: no metadata -------------------------------------------------------------------------------------------


def _without_metadata(clear: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    def finish(base: AttentionBuffers, output: torch.Tensor, count: Count, **more: Any) -> torch.Tensor:
        return clear(output) if count is None else base.finish(output, count, **more)

    return finish


warm_up_left = plant(
    "warm-up-left",
    "no-metadata-is-all-zero",
    "Without metadata the buffer is returned as it is.",
    finish=_without_metadata(lambda output: output),
)
warm_up_multiplied = plant(
    "warm-up-multiplied",
    "no-metadata-is-all-zero",
    "Without metadata the buffer is multiplied by zero.",
    finish=_without_metadata(lambda output: output.mul_(0)),
)
warm_up_new_buffer = plant(
    "warm-up-new-buffer",
    "no-metadata-is-all-zero",
    "Without metadata a new buffer of zeros is returned, and the one that the layer holds is not cleared.",
    finish=_without_metadata(torch.zeros_like),
)
warm_up_one_token = plant(
    "warm-up-counts-one-token",
    "no-metadata-is-all-zero",
    "Without metadata one token counts as written.",
    finish=_without_metadata(lambda output: (output[1:].zero_(), output)[1]),
)


# -- finish: query_start_loc ---------------------------------------------------------------------------------------


def _bounded(end: Callable[[torch.Tensor, int, Starts], int]) -> Callable[..., Any]:
    """A `finish` whose tail begins where `end` says, given buffer, num_actual_tokens and query_start_loc."""

    def finish(
        base: AttentionBuffers, output: torch.Tensor, count: Count, *, query_start_loc: Starts = None
    ) -> torch.Tensor:
        if count is None or query_start_loc is None:
            return base.finish(output, count, query_start_loc=query_start_loc)
        base.finish(torch.empty_like(output), count, query_start_loc=query_start_loc)
        output[end(output, int(count), query_start_loc) :].zero_()
        return output

    return finish


def _last(starts: Starts) -> int:
    assert starts is not None
    return int(starts[-1])


padded_count_believed = plant(
    "padded-count-believed",
    "query-start-loc-bounds-tokens",
    "num_actual_tokens is believed where it counts padding (FR4: 30 instead of 26).",
    finish=_bounded(lambda output, count, starts: count),
)
only_where_padded_differs = plant(
    "cleared-only-where-counts-differ",
    "query-start-loc-bounds-tokens",
    "Nothing is cleared where num_actual_tokens equals the rows of the buffer, since there seems to be no padding.",
    finish=_bounded(lambda output, count, starts: count if count == output.shape[0] else min(count, _last(starts))),
)
larger_count = plant(
    "larger-count-decides",
    "query-start-loc-bounds-tokens",
    "Of num_actual_tokens and the end of query_start_loc the larger one decides.",
    finish=_bounded(lambda output, count, starts: max(count, _last(starts))),
)
count_ignored = plant(
    "actual-tokens-ignored",
    "query-start-loc-bounds-tokens",
    "query_start_loc alone decides, also where fewer rows were written.",
    finish=_bounded(lambda output, count, starts: _last(starts)),
)
requests_counted = plant(
    "requests-taken-for-tokens",
    "query-start-loc-bounds-tokens",
    "The tail begins after as many rows as there are requests, as in decode, in prefill too.",
    finish=_bounded(lambda output, count, starts: min(count, len(starts) - 1)),  # type: ignore[arg-type]
)
locations_on_device_ignored = plant(
    "locations-on-device-ignored",
    "query-start-loc-bounds-tokens",
    "query_start_loc is looked at only if it is on the host.",
    finish=_bounded(
        lambda output, count, starts: count if isinstance(starts, torch.Tensor) else min(count, _last(starts))
    ),
)


# -- mask_rows -----------------------------------------------------------------------------------------------------


def _multiplied(base: AttentionBuffers, rows: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    return rows * beside(keep, rows).to(rows.dtype)


def _masked_in_place(base: AttentionBuffers, rows: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    return rows.copy_(base.mask_rows(rows, keep))


def _nan_hidden(base: AttentionBuffers, rows: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    return base.mask_rows(rows.nan_to_num(nan=0.0), keep)


def _first_column(base: AttentionBuffers, rows: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    masked = rows.clone()
    masked[:, :1] = base.mask_rows(rows[:, :1], keep)
    return masked


def _inverted(base: AttentionBuffers, rows: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    return base.mask_rows(rows, keep.logical_not())


mask_multiplies = plant(
    "mask-multiplies", "masks-select", "Rows are multiplied by the mask: 0 x NaN is NaN.", mask_rows=_multiplied
)
mask_in_place = plant(
    "mask-in-place", "masks-select", "The rows that are masked from are cleared as well.", mask_rows=_masked_in_place
)
mask_hides_nan = plant("mask-hides-nan", "masks-select", "NaN in a kept row becomes zero.", mask_rows=_nan_hidden)
mask_first_column = plant(
    "mask-first-column", "masks-select", "Only the first head or column is masked.", mask_rows=_first_column
)
mask_inverted = plant("mask-inverted", "masks-select", "The mask says what to clear.", mask_rows=_inverted)
