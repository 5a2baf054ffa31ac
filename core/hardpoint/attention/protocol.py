"""`AttentionBuffers`: output and state buffers whose unwritten rows nobody ever sees.

Why it exists (FR4): an attention kernel writes the rows of real tokens only. The buffer is as long as the padded batch,
comes from an allocator that does not clear it, and is added to the residual whole; on some devices its tail decodes as
NaN, and NaN goes everywhere from there.

Laws: the tail past the actual tokens is zero, and all of it is zero when there is no metadata; the rows of real tokens
are untouched, NaN included; masks use `where`, never multiplication (0 x NaN is NaN); a slot of state that is reset is
zero, and no other slot changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

BufferKind = Literal["output", "core_output", "z", "conv_state", "recurrent_state"]
TOKEN_BUFFERS: tuple[BufferKind, ...] = ("output", "core_output", "z")
STATE_BUFFERS: tuple[BufferKind, ...] = ("conv_state", "recurrent_state")


@runtime_checkable
class AttentionBuffers(Protocol):
    """Buffers of attention and gated-delta-net (GDN) layers.

    Token buffers (`output` of attention or of the model, GDN `core_output` and `z`) have one row per padded token.
    State buffers (`conv_state`, `recurrent_state`) have one row per slot; slot -1 is padding, never read or written.
    """

    def allocate(
        self, kind: BufferKind, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        """A buffer. State is zero in every slot; a token buffer may hold anything until `finish`."""
        ...

    def finish(
        self,
        output: torch.Tensor,
        num_actual_tokens: int | torch.Tensor | None,
        *,
        query_start_loc: Sequence[int] | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Zero, in place, what no kernel wrote in the token buffer `output` ``[rows, ...]``; returns `output` itself.

        Args:
            num_actual_tokens: rows that kernels wrote; a tensor of one element stays on the device (graph-safe); None
                if there is no metadata (profile and warm-up runs), then nothing was written.
            query_start_loc: ``[requests + 1]``; its end bounds `num_actual_tokens`, which in FR4 counted padding rows.

        Raises:
            AttentionError: a count on the host that is negative or larger than the buffer.
        """
        ...

    def mask_rows(self, rows: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        """`rows` ``[n, ...]`` where `keep` ``[n]`` (bool) is true, zero elsewhere; a new tensor."""
        ...

    def read_state(self, state: torch.Tensor, slots: torch.Tensor, has_initial_state: torch.Tensor) -> torch.Tensor:
        """``[n, ...]``: ``state[slots[i]]`` where ``has_initial_state[i]`` and ``slots[i] >= 0``, zero elsewhere."""
        ...

    def reset_state(self, state: torch.Tensor, slots: Sequence[int] | torch.Tensor) -> None:
        """Zero `state` ``[slots, ...]`` in the given slots, in place; -1 is skipped, it never means the last slot.

        A tensor of slots stays on the device (graph-safe) and is not checked; a sequence is.

        Raises:
            AttentionError: a slot on the host that is below -1 or past the end.
        """
        ...

    def poisoned(self) -> AttentionBuffers:
        """The same buffers for tests: every new buffer, state too, holds NaN (integers: the largest value).

        What reads before it writes or resets then shows on any device.
        """
        ...
