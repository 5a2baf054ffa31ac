"""Sizes of one gated-delta-net layer on one rank, and what the kernels cannot do, as sentences."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from hardpoint_kernels.errors import KernelRefused

HEAD_SIZES = (16, 32, 64, 128)
WIDTH = 4


@dataclass(frozen=True)
class Heads:
    """Sizes of a layer's shard.

    Attributes:
        num_k_heads: H, heads of q and k on this rank.
        num_v_heads: HV, heads of v, a multiple of H.
        head_k_dim: K.
        head_v_dim: V.
    """

    num_k_heads: int
    num_v_heads: int
    head_k_dim: int = 128
    head_v_dim: int = 128

    @property
    def channels(self) -> int:
        """Convolution channels, ``2 * H * K + HV * V``, in the order q, k, v."""
        return 2 * self.num_k_heads * self.head_k_dim + self.num_v_heads * self.head_v_dim

    @property
    def scale(self) -> float:
        """Factor on q, ``K ** -0.5``."""
        return 1.0 / math.sqrt(self.head_k_dim)

    def refusal(self) -> str | None:
        """Why the kernels of this package cannot do these sizes, None if they can."""
        if self.num_k_heads < 1 or self.num_v_heads % self.num_k_heads:
            return f"requires HV to be a multiple of H, got H={self.num_k_heads}, HV={self.num_v_heads}"
        for name, size in (("K", self.head_k_dim), ("V", self.head_v_dim)):
            if size not in HEAD_SIZES:
                return f"requires {name} in {', '.join(map(str, HEAD_SIZES))}, got {name}={size}"
        return None

    def check(self, kernel: str) -> None:
        """KernelRefused with the sentence of `refusal`."""
        reason = self.refusal()
        if reason is not None:
            raise KernelRefused(f"{kernel} {reason}; nothing was launched.")


def check_width(kernel: str, weight: torch.Tensor) -> None:
    """KernelRefused unless the convolution is `WIDTH` taps wide."""
    if weight.shape[-1] != WIDTH:
        raise KernelRefused(
            f"{kernel} requires a convolution of width {WIDTH}, got {weight.shape[-1]}; nothing was launched."
        )
