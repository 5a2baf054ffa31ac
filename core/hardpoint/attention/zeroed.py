"""`ZeroedAttentionBuffers`: for kernels that leave rows of a token buffer alone and expect zeros there.

The XPU GDN kernel narrows its outputs to the actual tokens "and leaves the padded tail at its zero-init", and returns
at once where there is no metadata (vllm-xpu-kernels, csrc/xpu/gdn_attn/gdn_attn_interface.cpp:145-151): `z` then holds
what the memory held before. `finish` cannot mend that for a buffer that is read before it is finished, as `z` is by the
gated norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hardpoint.attention.protocol import TOKEN_BUFFERS, BufferKind
from hardpoint.attention.reference import ReferenceAttentionBuffers

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ZeroedAttentionBuffers(ReferenceAttentionBuffers):
    """The reference's buffers, of which a new token buffer is zero as well: one fill per buffer."""

    def allocate(
        self, kind: BufferKind, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        """See `AttentionBuffers.allocate`; every new buffer is zero, unless it is poisoned for a test."""
        made = super().allocate(kind, shape, dtype=dtype, device=device)
        return made.zero_() if kind in TOKEN_BUFFERS and not self.poison else made
