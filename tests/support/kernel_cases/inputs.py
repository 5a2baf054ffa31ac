"""Seeded inputs of one GDN layer, and the comparison that all cases use."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from hardpoint_kernels.gdn.heads import Heads


@dataclass(frozen=True)
class Layer:
    """Weights and pools of a layer, made on the host and moved."""

    heads: Heads
    conv_weight: torch.Tensor
    conv_bias: torch.Tensor | None
    A_log: torch.Tensor
    dt_bias: torch.Tensor
    norm_weight: torch.Tensor
    conv_state: torch.Tensor
    state: torch.Tensor

    def weights(self) -> dict[str, Any]:
        names = ("conv_weight", "conv_bias", "A_log", "dt_bias")
        return {name: getattr(self, name) for name in names}

    def to(self, device: str) -> Layer:
        moved = {
            name: value.to(device, copy=True) for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return replace(self, **moved)


def half_of(device: str) -> torch.dtype:
    """bf16 where it can be trusted: the interpreter's tl.dot multiplies its bit patterns."""
    return torch.bfloat16 if device != "cpu" else torch.float16


def make_layer(
    heads: Heads,
    dtype: torch.dtype,
    *,
    pool: int = 8,
    rows: int = 3,
    state_dtype: torch.dtype = torch.float32,
    bias: bool = False,
    seed: int = 0,
) -> Layer:
    """On the host. States are of the size that real ones have: columns of about unit length."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    hv, v, k = heads.num_v_heads, heads.head_v_dim, heads.head_k_dim
    return Layer(
        heads=heads,
        conv_weight=(normal(heads.channels, 4) * 0.5).to(dtype),
        conv_bias=normal(heads.channels).to(dtype) if bias else None,
        A_log=torch.rand(hv, generator=generator) * 2 - 1,
        dt_bias=normal(hv).to(dtype),
        norm_weight=(1 + 0.1 * normal(v)).to(dtype),
        conv_state=normal(pool, rows, heads.channels).to(dtype),
        state=(normal(pool, hv, v, k) * 0.3).to(state_dtype),
    )


def tokens(heads: Heads, count: int, dtype: torch.dtype, seed: int = 1) -> dict[str, torch.Tensor]:
    """mixed_qkv, a, b and z of `count` tokens, on the host."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "mixed_qkv": (count, heads.channels),
        "a": (count, heads.num_v_heads),
        "b": (count, heads.num_v_heads),
        "z": (count, heads.num_v_heads, heads.head_v_dim),
    }
    return {name: torch.randn(*shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """``|found - wanted| / |wanted|`` in float64; NaN and wrong shapes never pass."""
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    difference = (found.detach().cpu().double() - wanted.detach().cpu().double()).norm()
    size = wanted.detach().cpu().double().norm()
    return float(difference / size) if size else float(difference)


def close(found: torch.Tensor, wanted: torch.Tensor, bound: float, what: str) -> None:
    """Within `bound`, relative."""
    error = relative(found, wanted)
    assert error <= bound, f"{what}: relative error {error:.2e}, allowed {bound:.0e}"


def poisoned(*shape: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    """NaN everywhere: what nobody writes is seen."""
    return torch.full(shape, float("nan"), dtype=dtype, device=device)
