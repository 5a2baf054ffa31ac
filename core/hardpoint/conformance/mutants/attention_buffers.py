"""Attention and GDN buffers with a fault, and ones that are different and right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import torch

from hardpoint.attention import STATE_BUFFERS, AttentionBuffers, BufferKind
from hardpoint.backend import Backend
from hardpoint.conformance.mutant import LegalVariant, Mutant
from hardpoint.conformance.mutants import _proxy
from hardpoint.errors import AttentionError

Count = int | torch.Tensor | None
Starts = Sequence[int] | torch.Tensor | None


def _planted(**changes: Callable[..., Any]) -> Callable[[Backend], Backend]:
    """Buffers with some methods replaced; each is given the base buffers first."""

    def mutate(backend: Backend) -> Backend:
        base = backend.attention_buffers
        changed: Any = _proxy.Changed(base, **{name: partial(change, base) for name, change in changes.items()})
        return replace(backend, attention_buffers=changed)

    return mutate


def _mutant(name: str, law: str, statement: str, **changes: Callable[..., Any]) -> Mutant:
    return Mutant(
        f"attention_buffers.{name}", f"attention_buffers.{law}", "attention_buffers", statement, _planted(**changes)
    )


def _legal(name: str, statement: str, **changes: Callable[..., Any]) -> LegalVariant:
    return LegalVariant(f"attention_buffers.{name}", "attention_buffers", statement, _planted(**changes))


def _end(output: torch.Tensor, count: Count, starts: Starts) -> int:
    """Rows that are real, read on the host; for faults that are about something else."""
    if count is None:
        return 0
    ends = [int(count)]
    if starts is not None:
        ends.append(int(starts[-1]))
    return min(ends)


def _keep(rows: int, device: torch.device, end: int) -> torch.Tensor:
    return torch.tensor([row < end for row in range(rows)], dtype=torch.bool, device=device)


def _beside(keep: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return keep.reshape(-1, *([1] * (rows.dim() - 1)))


# -- allocate ----------------------------------------------------------------------------------------------------------


def _one_per_shape(backend: Backend, *, kinds: bool) -> Backend:
    base, made = backend.attention_buffers, {}

    def allocate(kind: BufferKind, shape: Sequence[int], **where: Any) -> torch.Tensor:
        key = (kind if kinds else kind in STATE_BUFFERS, tuple(shape), *where.values())
        if key not in made:
            made[key] = base.allocate(kind, shape, **where)
        return made[key]

    return replace(backend, attention_buffers=_changed(base, allocate=allocate))


def _changed(base: AttentionBuffers, **changes: Any) -> Any:
    return _proxy.Changed(base, **changes)


buffer_handed_out_twice = Mutant(
    "attention_buffers.buffer-handed-out-twice",
    "attention_buffers.allocation-is-as-asked",
    "attention_buffers",
    "A second buffer of the same kind and shape is the first one.",
    lambda backend: _one_per_shape(backend, kinds=True),
)
kinds_share_memory = Mutant(
    "attention_buffers.kinds-share-memory",
    "attention_buffers.allocation-is-as-asked",
    "attention_buffers",
    "core_output and z of one shape are the same memory.",
    lambda backend: _one_per_shape(backend, kinds=False),
)
dtype_ignored = _mutant(
    "state-in-another-dtype",
    "allocation-is-as-asked",
    "State is kept in float32, whatever dtype was asked for.",
    allocate=lambda base, kind, shape, *, dtype, device: base.allocate(
        kind, shape, dtype=torch.float32 if kind in STATE_BUFFERS else dtype, device=device
    ),
)
rows_rounded_up = _mutant(
    "rows-rounded-up",
    "allocation-is-as-asked",
    "A buffer has a multiple of eight rows, more than were asked for.",
    allocate=lambda base, kind, shape, **where: base.allocate(kind, (-(-shape[0] // 8) * 8, *shape[1:]), **where),
)


def _always_device_zero(backend: Backend) -> Backend:
    base = backend.attention_buffers

    def allocate(kind: BufferKind, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return base.allocate(kind, shape, dtype=dtype, device=backend.device.torch_device(0))

    return replace(backend, attention_buffers=_changed(base, allocate=allocate))


always_device_zero = Mutant(
    "attention_buffers.always-device-zero",
    "attention_buffers.allocation-is-as-asked",
    "attention_buffers",
    "Every buffer is on device 0, whichever was asked for.",
    _always_device_zero,
)

# -- finish: the tail --------------------------------------------------------------------------------------------------


def _clears(clear: Callable[[torch.Tensor, int], object], *, without_metadata: bool = False) -> Callable[..., Any]:
    """A `finish` that clears its own way, after the checks of the base's; with the base's way without metadata."""

    def finish(
        base: AttentionBuffers, output: torch.Tensor, count: Count, *, query_start_loc: Starts = None
    ) -> torch.Tensor:
        if count is None:
            if without_metadata:
                clear(output, 0)
                return output
            return base.finish(output, None)
        base.finish(torch.empty_like(output), count, query_start_loc=query_start_loc)
        clear(output, _end(output, count, query_start_loc))
        return output

    return finish


tail_left = _mutant("tail-left", "tail-is-zero", "The tail is left as it is.", finish=_clears(lambda output, end: None))
tail_multiplied = _mutant(
    "tail-masked-by-multiplication",
    "tail-is-zero",
    "The tail is multiplied by zero: NaN and infinity stay NaN.",
    finish=_clears(lambda output, end: output[end:].mul_(0)),
)
first_padding_row_only = _mutant(
    "first-padding-row-only",
    "tail-is-zero",
    "Only the first row of padding is cleared.",
    finish=_clears(lambda output, end: output[end : end + 1].zero_()),
)
last_padding_row_left = _mutant(
    "last-padding-row-left",
    "tail-is-zero",
    "Clearing ends one row before the buffer does.",
    finish=_clears(lambda output, end: output[end : output.shape[0] - 1].zero_()),
)
first_padding_row_left = _mutant(
    "first-padding-row-left",
    "tail-is-zero",
    "Clearing begins one row too late.",
    finish=_clears(lambda output, end: output[end + 1 :].zero_()),
)
real_row_cleared = _mutant(
    "real-row-cleared",
    "tail-is-zero",
    "Clearing begins one row too early, and the last token is lost.",
    finish=_clears(lambda output, end: output[max(end - 1, 0) :].zero_()),
)
cleared_from_the_next_block = _mutant(
    "cleared-from-the-next-block",
    "tail-is-zero",
    "Clearing begins at the next multiple of four rows.",
    finish=_clears(lambda output, end: output[-(-end // 4) * 4 :].zero_()),
)
one_block_only = _mutant(
    "one-block-cleared",
    "tail-is-zero",
    "At most 32 rows are cleared, as one program of a kernel would.",
    finish=_clears(lambda output, end: output[end : end + 32].zero_()),
)
first_head_only = _mutant(
    "first-head-only",
    "tail-is-zero",
    "The tail is cleared in the first head or column alone.",
    finish=_clears(lambda output, end: output[end:, :1].zero_()),
)
only_nan_cleared = _mutant(
    "only-nan-cleared",
    "tail-is-zero",
    "NaN in the tail becomes zero, other garbage stays.",
    finish=_clears(lambda output, end: output[end:].nan_to_num_(nan=0.0)),
)
real_nan_hidden = _mutant(
    "real-nan-hidden",
    "tail-is-zero",
    "NaN becomes zero everywhere, also the one that a kernel computed for a token.",
    finish=_clears(lambda output, end: (output.nan_to_num_(nan=0.0), output[end:].zero_())),
)
half_precision_left = _mutant(
    "bfloat16-tail-left",
    "tail-is-zero",
    "The tail is cleared in float32 alone.",
    finish=_clears(lambda output, end: output[end:].zero_() if output.dtype == torch.float32 else None),
)


def _cleared_copy(
    base: AttentionBuffers, output: torch.Tensor, count: Count, *, query_start_loc: Starts = None
) -> torch.Tensor:
    return base.finish(output.clone(), count, query_start_loc=query_start_loc)


copy_cleared = _mutant(
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


device_count_ignored = _mutant(
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

    return replace(backend, attention_buffers=_changed(base, allocate=allocate, finish=finish))


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

    return replace(backend, attention_buffers=_changed(base, finish=finish))


stale_rows = Mutant(
    "attention_buffers.stale-rows-of-a-larger-batch",
    "attention_buffers.tail-is-zero",
    "attention_buffers",
    "The tail of a buffer is cleared once; a smaller batch then shows rows of the larger one before it.",
    _high_water_mark,
)

# -- finish: no metadata -----------------------------------------------------------------------------------------------


def _without_metadata(clear: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    def finish(base: AttentionBuffers, output: torch.Tensor, count: Count, **more: Any) -> torch.Tensor:
        return clear(output) if count is None else base.finish(output, count, **more)

    return finish


warm_up_left = _mutant(
    "warm-up-left",
    "no-metadata-is-all-zero",
    "Without metadata the buffer is returned as it is.",
    finish=_without_metadata(lambda output: output),
)
warm_up_multiplied = _mutant(
    "warm-up-multiplied",
    "no-metadata-is-all-zero",
    "Without metadata the buffer is multiplied by zero.",
    finish=_without_metadata(lambda output: output.mul_(0)),
)
warm_up_new_buffer = _mutant(
    "warm-up-new-buffer",
    "no-metadata-is-all-zero",
    "Without metadata a new buffer of zeros is returned, and the one that the layer holds is not cleared.",
    finish=_without_metadata(torch.zeros_like),
)
warm_up_one_token = _mutant(
    "warm-up-counts-one-token",
    "no-metadata-is-all-zero",
    "Without metadata one token counts as written.",
    finish=_without_metadata(lambda output: (output[1:].zero_(), output)[1]),
)

# -- finish: query_start_loc -------------------------------------------------------------------------------------------


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


padded_count_believed = _mutant(
    "padded-count-believed",
    "query-start-loc-bounds-tokens",
    "num_actual_tokens is believed where it counts padding (FR4: 30 instead of 26).",
    finish=_bounded(lambda output, count, starts: count),
)
only_where_padded_differs = _mutant(
    "cleared-only-where-counts-differ",
    "query-start-loc-bounds-tokens",
    "Nothing is cleared where num_actual_tokens equals the rows of the buffer, since there seems to be no padding.",
    finish=_bounded(lambda output, count, starts: count if count == output.shape[0] else min(count, _last(starts))),
)
larger_count = _mutant(
    "larger-count-decides",
    "query-start-loc-bounds-tokens",
    "Of num_actual_tokens and the end of query_start_loc the larger one decides.",
    finish=_bounded(lambda output, count, starts: max(count, _last(starts))),
)
count_ignored = _mutant(
    "actual-tokens-ignored",
    "query-start-loc-bounds-tokens",
    "query_start_loc alone decides, also where fewer rows were written.",
    finish=_bounded(lambda output, count, starts: _last(starts)),
)
requests_counted = _mutant(
    "requests-taken-for-tokens",
    "query-start-loc-bounds-tokens",
    "The tail begins after as many rows as there are requests, as in decode, in prefill too.",
    finish=_bounded(lambda output, count, starts: min(count, len(starts) - 1)),  # type: ignore[arg-type]
)
locations_on_device_ignored = _mutant(
    "locations-on-device-ignored",
    "query-start-loc-bounds-tokens",
    "query_start_loc is looked at only if it is on the host.",
    finish=_bounded(
        lambda output, count, starts: count if isinstance(starts, torch.Tensor) else min(count, _last(starts))
    ),
)

# -- mask_rows ---------------------------------------------------------------------------------------------------------


def _multiplied(base: AttentionBuffers, rows: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    return rows * _beside(keep, rows).to(rows.dtype)


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


mask_multiplies = _mutant(
    "mask-multiplies", "masks-select", "Rows are multiplied by the mask: 0 x NaN is NaN.", mask_rows=_multiplied
)
mask_in_place = _mutant(
    "mask-in-place", "masks-select", "The rows that are masked from are cleared as well.", mask_rows=_masked_in_place
)
mask_hides_nan = _mutant("mask-hides-nan", "masks-select", "NaN in a kept row becomes zero.", mask_rows=_nan_hidden)
mask_first_column = _mutant(
    "mask-first-column", "masks-select", "Only the first head or column is masked.", mask_rows=_first_column
)
mask_inverted = _mutant("mask-inverted", "masks-select", "The mask says what to clear.", mask_rows=_inverted)

# -- state: allocate, reset, read --------------------------------------------------------------------------------------


def _state(make: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    def allocate(
        base: AttentionBuffers, kind: BufferKind, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        if kind not in STATE_BUFFERS:
            return base.allocate(kind, shape, dtype=dtype, device=device)
        return make(kind, tuple(shape), dtype, device)

    return allocate


def _zero_first(kind: BufferKind, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    state = torch.empty(shape, dtype=dtype, device=device)
    state[:1].zero_()
    return state


def _zero_conv(kind: BufferKind, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    make = torch.zeros if kind == "conv_state" else torch.empty
    return make(shape, dtype=dtype, device=device)


state_uninitialised = _mutant(
    "state-uninitialised",
    "state-starts-at-zero",
    "New state is whatever the allocator gives.",
    allocate=_state(lambda kind, shape, dtype, device: torch.empty(shape, dtype=dtype, device=device)),
)
new_slots_uninitialised = _mutant(
    "new-slots-uninitialised",
    "state-starts-at-zero",
    "The first slot of new state is zero, the others are whatever the allocator gives.",
    allocate=_state(_zero_first),
)
recurrent_state_uninitialised = _mutant(
    "recurrent-state-uninitialised",
    "state-starts-at-zero",
    "conv_state starts at zero, recurrent_state does not.",
    allocate=_state(_zero_conv),
)


def _slots(slots: Sequence[int] | torch.Tensor) -> list[int]:
    return [int(slot) for slot in slots]


def _resets(clear: Callable[[torch.Tensor, list[int]], object]) -> Callable[..., Any]:
    """A `reset_state` that clears its own way, after the checks of the base's."""

    def reset_state(base: AttentionBuffers, state: torch.Tensor, slots: Sequence[int] | torch.Tensor) -> None:
        base.reset_state(torch.empty_like(state), slots)
        clear(state, _slots(slots))

    return reset_state


def _reset(state: torch.Tensor, slots: Sequence[int]) -> None:
    for slot in slots:
        state[slot].zero_()


def _used(slots: list[int]) -> list[int]:
    return [slot for slot in slots if slot >= 0]


reset_does_nothing = _mutant(
    "reset-does-nothing",
    "reset-clears-its-slots-only",
    "A slot goes to the next request with the state of the last.",
    reset_state=_resets(lambda state, slots: None),
)
reset_multiplies = _mutant(
    "reset-multiplies",
    "reset-clears-its-slots-only",
    "A slot is multiplied by zero: NaN stays for every request to come.",
    reset_state=_resets(lambda state, slots: [state[slot].mul_(0) for slot in _used(slots)]),
)
reset_padding_is_last_slot = _mutant(
    "reset-of-padding-clears-the-last-slot",
    "reset-clears-its-slots-only",
    "Slot -1 clears the last slot, which belongs to somebody.",
    reset_state=_resets(_reset),
)
reset_everything = _mutant(
    "reset-clears-everything",
    "reset-clears-its-slots-only",
    "A reset of some slots clears all of them.",
    reset_state=_resets(lambda state, slots: state.zero_() if _used(slots) else None),
)
reset_first_only = _mutant(
    "reset-of-the-first-slot-only",
    "reset-clears-its-slots-only",
    "Of several slots only the first is cleared.",
    reset_state=_resets(lambda state, slots: _reset(state, _used(slots)[:1])),
)


def _reset_on_host_only(base: AttentionBuffers, state: torch.Tensor, slots: Sequence[int] | torch.Tensor) -> None:
    if not isinstance(slots, torch.Tensor):
        base.reset_state(state, slots)


reset_on_host_only = _mutant(
    "reset-ignores-slots-on-device",
    "reset-clears-its-slots-only",
    "Slots that are on the device are not cleared.",
    reset_state=_reset_on_host_only,
)


def _read(rows: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    def read_state(
        base: AttentionBuffers, state: torch.Tensor, slots: torch.Tensor, has_initial_state: torch.Tensor
    ) -> torch.Tensor:
        return rows(state, slots, has_initial_state)

    return read_state


def _everything(state: torch.Tensor, slots: torch.Tensor, has: torch.Tensor) -> torch.Tensor:
    rows = state.index_select(0, slots.clamp(min=0))
    return torch.where(_beside(slots >= 0, rows), rows, torch.zeros_like(rows))


def _read_multiplied(state: torch.Tensor, slots: torch.Tensor, has: torch.Tensor) -> torch.Tensor:
    rows = state.index_select(0, slots.clamp(min=0))
    return rows * _beside(has & (slots >= 0), rows).to(rows.dtype)


def _read_wrapped(state: torch.Tensor, slots: torch.Tensor, has: torch.Tensor) -> torch.Tensor:
    rows = state.index_select(0, slots.remainder(state.shape[0]))
    return torch.where(_beside(has, rows), rows, torch.zeros_like(rows))


def _read_by_position(state: torch.Tensor, slots: torch.Tensor, has: torch.Tensor) -> torch.Tensor:
    rows = state[: slots.shape[0]]
    return torch.where(_beside(has & (slots >= 0), rows), rows, torch.zeros_like(rows))


def _read_and_clear(
    base: AttentionBuffers, state: torch.Tensor, slots: torch.Tensor, has_initial_state: torch.Tensor
) -> torch.Tensor:
    rows = base.read_state(state, slots, has_initial_state)
    base.reset_state(state, slots)
    return rows


initial_state_ignored = _mutant(
    "initial-state-ignored",
    "reads-need-initial-state",
    "A new request reads what the last one left in its slot.",
    read_state=_read(_everything),
)
read_multiplies = _mutant(
    "read-multiplies",
    "reads-need-initial-state",
    "A slot without initial state is multiplied by zero: NaN in it reaches the new request.",
    read_state=_read(_read_multiplied),
)
padding_reads_last_slot = _mutant(
    "padding-reads-the-last-slot",
    "reads-need-initial-state",
    "Slot -1 reads the last slot.",
    read_state=_read(_read_wrapped),
)
read_by_position = _mutant(
    "read-by-position",
    "reads-need-initial-state",
    "A request reads the slot of its position in the batch.",
    read_state=_read(_read_by_position),
)
read_clears = _mutant(
    "read-clears",
    "reads-need-initial-state",
    "Reading a slot clears it.",
    read_state=_read_and_clear,
)

# -- poison ------------------------------------------------------------------------------------------------------------


def _poisons(change: Callable[[BufferKind, torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    """Poisoned buffers whose new buffers pass through `change`, with an unpoisoned one of the same shape beside."""

    def poisoned(base: AttentionBuffers) -> Any:
        poison = base.poisoned()

        def allocate(kind: BufferKind, shape: Sequence[int], **where: Any) -> torch.Tensor:
            return change(kind, poison.allocate(kind, shape, **where), torch.zeros(tuple(shape), **where))

        return _changed(poison, allocate=allocate)

    return poisoned


def _first_row(kind: BufferKind, poison: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    zero[:1].copy_(poison[:1])
    return zero


no_poison = _mutant(
    "no-poison", "poison-shows", "Poison mode gives plain buffers.", poisoned=_poisons(lambda kind, poison, zero: zero)
)
state_not_poisoned = _mutant(
    "state-not-poisoned",
    "poison-shows",
    "Poison mode leaves state at zero, and a missing reset never shows.",
    poisoned=_poisons(lambda kind, poison, zero: zero if kind in STATE_BUFFERS else poison),
)
integers_not_poisoned = _mutant(
    "integers-not-poisoned",
    "poison-shows",
    "Poison mode leaves integers at zero.",
    poisoned=_poisons(lambda kind, poison, zero: poison if poison.dtype.is_floating_point else zero),
)
first_row_poisoned = _mutant(
    "first-row-poisoned", "poison-shows", "Poison mode fills the first row only.", poisoned=_poisons(_first_row)
)


def _poisons_itself(backend: Backend) -> Backend:
    base = backend.attention_buffers
    changed = _changed(base)

    def poisoned() -> Any:
        changed.allocate = base.poisoned().allocate
        return changed

    changed.poisoned = poisoned
    return replace(backend, attention_buffers=changed)


poisons_itself = Mutant(
    "attention_buffers.poisons-itself",
    "attention_buffers.poison-shows",
    "attention_buffers",
    "Asking for poisoned buffers poisons the backend's own.",
    _poisons_itself,
)

# -- refusals ----------------------------------------------------------------------------------------------------------


def _clamped(value: int | torch.Tensor, rows: int) -> int | torch.Tensor:
    return value if isinstance(value, torch.Tensor) else min(max(value, 0), rows)


def _counts_clamped(
    base: AttentionBuffers, output: torch.Tensor, count: Count, *, query_start_loc: Starts = None
) -> torch.Tensor:
    if count is None:
        return base.finish(output, None)
    if query_start_loc is not None and not isinstance(query_start_loc, torch.Tensor):
        query_start_loc = [int(_clamped(start, output.shape[0])) for start in query_start_loc]
    return base.finish(output, _clamped(count, output.shape[0]), query_start_loc=query_start_loc)


def _locations_unchecked(
    base: AttentionBuffers, output: torch.Tensor, count: Count, *, query_start_loc: Starts = None
) -> torch.Tensor:
    if query_start_loc is not None and not isinstance(query_start_loc, torch.Tensor):
        query_start_loc = [int(_clamped(start, output.shape[0])) for start in query_start_loc]
    return base.finish(output, count, query_start_loc=query_start_loc)


def _clears_then_refuses(
    base: AttentionBuffers, output: torch.Tensor, count: Count, *, query_start_loc: Starts = None
) -> torch.Tensor:
    try:
        return base.finish(output, count, query_start_loc=query_start_loc)
    except AttentionError:
        output.zero_()
        raise


def _slots_skipped(base: AttentionBuffers, state: torch.Tensor, slots: Sequence[int] | torch.Tensor) -> None:
    if not isinstance(slots, torch.Tensor):
        slots = [slot for slot in slots if -1 <= slot < state.shape[0]]
    base.reset_state(state, slots)


def _reset_until_refused(base: AttentionBuffers, state: torch.Tensor, slots: Sequence[int] | torch.Tensor) -> None:
    if isinstance(slots, torch.Tensor):
        base.reset_state(state, slots)
        return
    for slot in slots:
        base.reset_state(state, [slot])


def _other_error(base: AttentionBuffers, state: torch.Tensor, slots: Sequence[int] | torch.Tensor) -> None:
    try:
        base.reset_state(state, slots)
    except AttentionError as error:
        raise IndexError(str(error)) from error


counts_clamped = _mutant(
    "counts-clamped",
    "impossible-counts-are-refused",
    "A count that the buffer cannot hold is cut to what it can, and nobody is told.",
    finish=_counts_clamped,
)
locations_unchecked = _mutant(
    "query-start-loc-unchecked",
    "impossible-counts-are-refused",
    "query_start_loc may end past the buffer.",
    finish=_locations_unchecked,
)
clears_then_refuses = _mutant(
    "clears-then-refuses",
    "impossible-counts-are-refused",
    "A refused `finish` has cleared the buffer.",
    finish=_clears_then_refuses,
)
slots_skipped = _mutant(
    "slots-skipped",
    "impossible-counts-are-refused",
    "A slot that does not exist is skipped, and nobody is told.",
    reset_state=_slots_skipped,
)
reset_until_refused = _mutant(
    "reset-until-refused",
    "impossible-counts-are-refused",
    "A refused reset has cleared the slots before the wrong one.",
    reset_state=_reset_until_refused,
)
other_error = _mutant(
    "refuses-with-another-error",
    "impossible-counts-are-refused",
    "A slot that does not exist raises IndexError, which callers take for a bug of their own.",
    reset_state=_other_error,
)

# -- legal variants ----------------------------------------------------------------------------------------------------


def _zeroed(
    base: AttentionBuffers, kind: BufferKind, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    if kind not in get_args(BufferKind):
        return base.allocate(kind, shape, dtype=dtype, device=device)
    return torch.zeros(tuple(shape), dtype=dtype, device=device)


zeroed_first = _legal(
    "zeroed-first", "Every new buffer is zero in whole, token buffers too: slower, and right.", allocate=_zeroed
)


def _carved(
    base: AttentionBuffers, kind: BufferKind, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    whole = base.allocate(kind, (-(-max(shape[0], 1) // 8) * 8, *shape[1:]), dtype=dtype, device=device)
    return whole[: shape[0]]


padded_storage = _legal(
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
    keep = _keep(output.shape[0], output.device, _end(output, count, query_start_loc))
    return output.masked_fill_(_beside(keep, output).logical_not(), 0)


mask_always = _legal(
    "finish-by-mask", "The tail is filled under a mask made on the host, with a wait for the device.", finish=_filled
)
negative_zero = _legal(
    "negative-zero",
    "What is cleared is -0.0, which is zero.",
    finish=_clears(lambda output, end: output[end:].fill_(-0.0), without_metadata=True),
    mask_rows=lambda base, rows, keep: torch.where(_beside(keep, rows), rows, torch.full_like(rows, -0.0)),
)
whole_copy = _legal(
    "cleared-through-a-copy",
    "The real rows are kept aside, the whole buffer is cleared, and they are put back.",
    finish=_clears(lambda output, end: _around(output, end)),
)


def _around(output: torch.Tensor, end: int) -> None:
    real = output[:end].clone()
    output.zero_()
    output[:end].copy_(real)


slot_by_slot = _legal(
    "state-read-slot-by-slot",
    "State is read with one copy per request, and reset with one fill per slot.",
    reset_state=_resets(lambda state, slots: _reset(state, _used(slots))),
    read_state=_read(
        lambda state, slots, has: torch.stack(
            [
                state[slot].clone() if known and slot >= 0 else torch.zeros_like(state[0])
                for slot, known in zip(slots.tolist(), has.tolist(), strict=True)
            ]
        )
    ),
)
