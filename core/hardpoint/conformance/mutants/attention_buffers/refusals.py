"""Poison that does not show, and counts that should be refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from hardpoint.attention import STATE_BUFFERS, AttentionBuffers, BufferKind
from hardpoint.backend import Backend
from hardpoint.conformance.mutant import Mutant
from hardpoint.conformance.mutants.attention_buffers._plant import (
    Count,
    Starts,
    plant,
    with_methods,
)
from hardpoint.errors import AttentionError

# -- poison --------------------------------------------------------------------------------------------------------


def _poisons(change: Callable[[BufferKind, torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    """Poisoned buffers whose new buffers pass through `change`, with an unpoisoned one of the same shape beside."""

    def poisoned(base: AttentionBuffers) -> Any:
        poison = base.poisoned()

        def allocate(kind: BufferKind, shape: Sequence[int], **where: Any) -> torch.Tensor:
            return change(kind, poison.allocate(kind, shape, **where), torch.zeros(tuple(shape), **where))

        return with_methods(poison, allocate=allocate)

    return poisoned


def _first_row(kind: BufferKind, poison: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    zero[:1].copy_(poison[:1])
    return zero


no_poison = plant(
    "no-poison", "poison-shows", "Poison mode gives plain buffers.", poisoned=_poisons(lambda kind, poison, zero: zero)
)
state_not_poisoned = plant(
    "state-not-poisoned",
    "poison-shows",
    "Poison mode leaves state at zero, and a missing reset never shows.",
    poisoned=_poisons(lambda kind, poison, zero: zero if kind in STATE_BUFFERS else poison),
)
integers_not_poisoned = plant(
    "integers-not-poisoned",
    "poison-shows",
    "Poison mode leaves integers at zero.",
    poisoned=_poisons(lambda kind, poison, zero: poison if poison.dtype.is_floating_point else zero),
)
first_row_poisoned = plant(
    "first-row-poisoned", "poison-shows", "Poison mode fills the first row only.", poisoned=_poisons(_first_row)
)


def _poisons_itself(backend: Backend) -> Backend:
    base = backend.attention_buffers
    changed = with_methods(base)

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


# -- refusals ------------------------------------------------------------------------------------------------------


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


counts_clamped = plant(
    "counts-clamped",
    "impossible-counts-are-refused",
    "A count that the buffer cannot hold is cut to what it can, and nobody is told.",
    finish=_counts_clamped,
)
locations_unchecked = plant(
    "query-start-loc-unchecked",
    "impossible-counts-are-refused",
    "query_start_loc may end past the buffer.",
    finish=_locations_unchecked,
)
clears_then_refuses = plant(
    "clears-then-refuses",
    "impossible-counts-are-refused",
    "A refused `finish` has cleared the buffer.",
    finish=_clears_then_refuses,
)
slots_skipped = plant(
    "slots-skipped",
    "impossible-counts-are-refused",
    "A slot that does not exist is skipped, and nobody is told.",
    reset_state=_slots_skipped,
)
reset_until_refused = plant(
    "reset-until-refused",
    "impossible-counts-are-refused",
    "A refused reset has cleared the slots before the wrong one.",
    reset_state=_reset_until_refused,
)
other_error = plant(
    "refuses-with-another-error",
    "impossible-counts-are-refused",
    "A slot that does not exist raises IndexError, which callers take for a bug of their own.",
    reset_state=_other_error,
)
