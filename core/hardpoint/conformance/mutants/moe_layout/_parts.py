"""What several files here need."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from hardpoint.moe import (
    PackedExperts,
)

Tensors = dict[str, torch.Tensor]


SWAPPED: Any = {"w13": "w31", "w31": "w13", "interleaved": "interleaved"}


def swap(packed: PackedExperts) -> PackedExperts:
    """The same storage, called the other way round."""
    if packed.descriptor.w13_state == "model":
        return packed
    return replace(packed, descriptor=replace(packed.descriptor, order=SWAPPED[packed.descriptor.order]))
