"""State buffers with a fault."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from hardpoint.attention import STATE_BUFFERS, AttentionBuffers, BufferKind
from hardpoint.conformance.mutants.attention_buffers._plant import (
    beside,
    plant,
    reading,
    reset_slots,
    resets,
    used_slots,
)


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


state_uninitialised = plant(
    "state-uninitialised",
    "state-starts-at-zero",
    "New state is whatever the allocator gives.",
    allocate=_state(lambda kind, shape, dtype, device: torch.empty(shape, dtype=dtype, device=device)),
)
new_slots_uninitialised = plant(
    "new-slots-uninitialised",
    "state-starts-at-zero",
    "The first slot of new state is zero, the others are whatever the allocator gives.",
    allocate=_state(_zero_first),
)
recurrent_state_uninitialised = plant(
    "recurrent-state-uninitialised",
    "state-starts-at-zero",
    "conv_state starts at zero, recurrent_state does not.",
    allocate=_state(_zero_conv),
)


reset_does_nothing = plant(
    "reset-does-nothing",
    "reset-clears-its-slots-only",
    "A slot goes to the next request with the state of the last.",
    reset_state=resets(lambda state, slots: None),
)
reset_multiplies = plant(
    "reset-multiplies",
    "reset-clears-its-slots-only",
    "A slot is multiplied by zero: NaN stays for every request to come.",
    reset_state=resets(lambda state, slots: [state[slot].mul_(0) for slot in used_slots(slots)]),
)
reset_padding_is_last_slot = plant(
    "reset-of-padding-clears-the-last-slot",
    "reset-clears-its-slots-only",
    "Slot -1 clears the last slot, which belongs to somebody.",
    reset_state=resets(reset_slots),
)
reset_everything = plant(
    "reset-clears-everything",
    "reset-clears-its-slots-only",
    "A reset of some slots clears all of them.",
    reset_state=resets(lambda state, slots: state.zero_() if used_slots(slots) else None),
)
reset_first_only = plant(
    "reset-of-the-first-slot-only",
    "reset-clears-its-slots-only",
    "Of several slots only the first is cleared.",
    reset_state=resets(lambda state, slots: reset_slots(state, used_slots(slots)[:1])),
)


def _reset_on_host_only(base: AttentionBuffers, state: torch.Tensor, slots: Sequence[int] | torch.Tensor) -> None:
    if not isinstance(slots, torch.Tensor):
        base.reset_state(state, slots)


reset_on_host_only = plant(
    "reset-ignores-slots-on-device",
    "reset-clears-its-slots-only",
    "Slots that are on the device are not cleared.",
    reset_state=_reset_on_host_only,
)


def _everything(state: torch.Tensor, slots: torch.Tensor, has: torch.Tensor) -> torch.Tensor:
    rows = state.index_select(0, slots.clamp(min=0))
    return torch.where(beside(slots >= 0, rows), rows, torch.zeros_like(rows))


def _read_multiplied(state: torch.Tensor, slots: torch.Tensor, has: torch.Tensor) -> torch.Tensor:
    rows = state.index_select(0, slots.clamp(min=0))
    return rows * beside(has & (slots >= 0), rows).to(rows.dtype)


def _read_wrapped(state: torch.Tensor, slots: torch.Tensor, has: torch.Tensor) -> torch.Tensor:
    rows = state.index_select(0, slots.remainder(state.shape[0]))
    return torch.where(beside(has, rows), rows, torch.zeros_like(rows))


def _read_by_position(state: torch.Tensor, slots: torch.Tensor, has: torch.Tensor) -> torch.Tensor:
    rows = state[: slots.shape[0]]
    return torch.where(beside(has & (slots >= 0), rows), rows, torch.zeros_like(rows))


def _read_and_clear(
    base: AttentionBuffers, state: torch.Tensor, slots: torch.Tensor, has_initial_state: torch.Tensor
) -> torch.Tensor:
    rows = base.read_state(state, slots, has_initial_state)
    base.reset_state(state, slots)
    return rows


initial_state_ignored = plant(
    "initial-state-ignored",
    "reads-need-initial-state",
    "A new request reads what the last one left in its slot.",
    read_state=reading(_everything),
)
read_multiplies = plant(
    "read-multiplies",
    "reads-need-initial-state",
    "A slot without initial state is multiplied by zero: NaN in it reaches the new request.",
    read_state=reading(_read_multiplied),
)
padding_reads_last_slot = plant(
    "padding-reads-the-last-slot",
    "reads-need-initial-state",
    "Slot -1 reads the last slot.",
    read_state=reading(_read_wrapped),
)
read_by_position = plant(
    "read-by-position",
    "reads-need-initial-state",
    "A request reads the slot of its position in the batch.",
    read_state=reading(_read_by_position),
)
read_clears = plant(
    "read-clears",
    "reads-need-initial-state",
    "Reading a slot clears it.",
    read_state=_read_and_clear,
)
