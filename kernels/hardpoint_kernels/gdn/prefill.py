"""`GdnPrefill`: everything of a GDN layer's prefill between the projections and the norm, in three launches."""

from __future__ import annotations

import torch

from hardpoint_kernels.gdn.chunk import ChunkRule
from hardpoint_kernels.gdn.heads import Heads
from hardpoint_kernels.gdn.plan import ChunkPlan
from hardpoint_kernels.gdn.prefill_conv import GdnPrepare
from hardpoint_kernels.launch import PLAIN, Launcher


class GdnPrefill:
    """`GdnPrepare` and then `ChunkRule`, on the same pools and plan."""

    def __init__(
        self,
        heads: Heads,
        *,
        conv_weight: torch.Tensor,
        conv_bias: torch.Tensor | None,
        A_log: torch.Tensor,
        dt_bias: torch.Tensor,
        null_slot: int = -1,
        launcher: Launcher = PLAIN,
    ) -> None:
        """Bind the weights of a layer. KernelRefused for what either part refuses."""
        self._prepare = GdnPrepare(
            heads, conv_weight=conv_weight, conv_bias=conv_bias, A_log=A_log, dt_bias=dt_bias, null_slot=null_slot,
            launcher=launcher,
        )  # fmt: skip
        self._rule = ChunkRule(heads, null_slot=null_slot, launcher=launcher)

    def __call__(
        self,
        mixed_qkv: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        conv_state: torch.Tensor,
        state: torch.Tensor,
        slots: torch.Tensor,
        has_initial_state: torch.Tensor,
        plan: ChunkPlan,
        out: torch.Tensor,
    ) -> torch.Tensor:
        """Run over one batch and return `out` ``[T, HV, V]``; see the two parts for the rest."""
        ready = self._prepare(mixed_qkv, a, b, conv_state, slots, has_initial_state, plan)
        return self._rule(*ready, state, slots, has_initial_state, plan, out)
