"""A part of one's own: ACME clears attention buffers when they are made, and nothing later.

It differs from hardpoint's reference and is as lawful: no value that nobody wrote is ever visible. The laws ask for
what readers see, not for how it comes about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hardpoint.attention import BufferKind, ReferenceAttentionBuffers


@dataclass(frozen=True)
class AcmeAttentionBuffers(ReferenceAttentionBuffers):
    """Buffers that are zero from the start, so that a row which no kernel writes reads as zero even before `finish`."""

    def allocate(
        self, kind: BufferKind, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        """A new buffer; checks and poison are the reference's."""
        buffer = super().allocate(kind, shape, dtype=dtype, device=device)
        return buffer if self.poison else buffer.zero_()
