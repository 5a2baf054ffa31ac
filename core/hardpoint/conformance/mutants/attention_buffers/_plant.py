"""How a fault is planted in buffers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from hardpoint.attention import AttentionBuffers
from hardpoint.backend import Backend
from hardpoint.conformance.mutant import LegalVariant, Mutant
from hardpoint.conformance.mutants import _proxy

Count = int | torch.Tensor | None


Starts = Sequence[int] | torch.Tensor | None


def planted(**changes: Callable[..., Any]) -> Callable[[Backend], Backend]:
    """Buffers with some methods replaced; each is given the base buffers first."""

    def mutate(backend: Backend) -> Backend:
        base = backend.attention_buffers
        changed: Any = _proxy.Changed(base, **{name: partial(change, base) for name, change in changes.items()})
        return replace(backend, attention_buffers=changed)

    return mutate


def plant(name: str, law: str, statement: str, **changes: Callable[..., Any]) -> Mutant:
    return Mutant(
        f"attention_buffers.{name}", f"attention_buffers.{law}", "attention_buffers", statement, planted(**changes)
    )


def legal_variant(name: str, statement: str, **changes: Callable[..., Any]) -> LegalVariant:
    return LegalVariant(f"attention_buffers.{name}", "attention_buffers", statement, planted(**changes))


def real_end(output: torch.Tensor, count: Count, starts: Starts) -> int:
    """Rows that are real, read on the host; for faults that are about something else."""
    if count is None:
        return 0
    ends = [int(count)]
    if starts is not None:
        ends.append(int(starts[-1]))
    return min(ends)


def rows_kept(rows: int, device: torch.device, end: int) -> torch.Tensor:
    return torch.tensor([row < end for row in range(rows)], dtype=torch.bool, device=device)


def beside(keep: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return keep.reshape(-1, *([1] * (rows.dim() - 1)))


def with_methods(base: AttentionBuffers, **changes: Any) -> Any:
    return _proxy.Changed(base, **changes)


def clears(clear: Callable[[torch.Tensor, int], object], *, without_metadata: bool = False) -> Callable[..., Any]:
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
        clear(output, real_end(output, count, query_start_loc))
        return output

    return finish


def slot_list(slots: Sequence[int] | torch.Tensor) -> list[int]:
    return [int(slot) for slot in slots]


def resets(clear: Callable[[torch.Tensor, list[int]], object]) -> Callable[..., Any]:
    """A `reset_state` that clears its own way, after the checks of the base's."""

    def reset_state(base: AttentionBuffers, state: torch.Tensor, slots: Sequence[int] | torch.Tensor) -> None:
        base.reset_state(torch.empty_like(state), slots)
        clear(state, slot_list(slots))

    return reset_state


def reset_slots(state: torch.Tensor, slots: Sequence[int]) -> None:
    for slot in slots:
        state[slot].zero_()


def used_slots(slots: list[int]) -> list[int]:
    return [slot for slot in slots if slot >= 0]


def reading(rows: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    def read_state(
        base: AttentionBuffers, state: torch.Tensor, slots: torch.Tensor, has_initial_state: torch.Tensor
    ) -> torch.Tensor:
        return rows(state, slots, has_initial_state)

    return read_state
