"""The expert layout of Intel GPUs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hardpoint.moe import LayoutDescriptor, ReferenceMoELayout
from hardpoint.moe.descriptor import Axes


@dataclass(frozen=True)
class XpuMoELayout(ReferenceMoELayout):
    """Transposed, ``[E, K, N]``, but for 4-bit weights, which the grouped GEMM reads as ``[E, N, K]``.

    vllm-xpu-kernels, fused_moe_interface.py: `XpuFusedMoe` takes w13 ``[E, H, 2I]`` and w2 ``[E, I, H]`` and leaves
    int4 as it is. Its constructor changes int4 weights in place and cannot be run again on them: with a
    4-bit model, keep these tensors and make the object once.
    """

    axes: Axes = "[E,K,N]"

    def kernel_layout(self, model: LayoutDescriptor) -> LayoutDescriptor:
        """See `MoELayout.kernel_layout`."""
        found = super().kernel_layout(model)
        return replace(found, axes="[E,N,K]") if model.values_per_element > 1 else found
