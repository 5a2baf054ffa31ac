"""Buffers that are not what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from hardpoint.attention import STATE_BUFFERS, BufferKind
from hardpoint.backend import Backend
from hardpoint.conformance.mutant import Mutant
from hardpoint.conformance.mutants.attention_buffers._plant import (
    plant,
    with_methods,
)


def _one_per_shape(backend: Backend, *, kinds: bool) -> Backend:
    base, made = backend.attention_buffers, {}

    def allocate(kind: BufferKind, shape: Sequence[int], **where: Any) -> torch.Tensor:
        key = (kind if kinds else kind in STATE_BUFFERS, tuple(shape), *where.values())
        if key not in made:
            made[key] = base.allocate(kind, shape, **where)
        return made[key]

    return replace(backend, attention_buffers=with_methods(base, allocate=allocate))


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
dtype_ignored = plant(
    "state-in-another-dtype",
    "allocation-is-as-asked",
    "State is kept in float32, whatever dtype was asked for.",
    allocate=lambda base, kind, shape, *, dtype, device: base.allocate(
        kind, shape, dtype=torch.float32 if kind in STATE_BUFFERS else dtype, device=device
    ),
)
rows_rounded_up = plant(
    "rows-rounded-up",
    "allocation-is-as-asked",
    "A buffer has a multiple of eight rows, more than were asked for.",
    allocate=lambda base, kind, shape, **where: base.allocate(kind, (-(-shape[0] // 8) * 8, *shape[1:]), **where),
)


def _always_device_zero(backend: Backend) -> Backend:
    base = backend.attention_buffers

    def allocate(kind: BufferKind, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return base.allocate(kind, shape, dtype=dtype, device=backend.device.torch_device(0))

    return replace(backend, attention_buffers=with_methods(base, allocate=allocate))


always_device_zero = Mutant(
    "attention_buffers.always-device-zero",
    "attention_buffers.allocation-is-as-asked",
    "attention_buffers",
    "Every buffer is on device 0, whichever was asked for.",
    _always_device_zero,
)
