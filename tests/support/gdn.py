"""The kernels of a gated-delta-net (GDN) layer as Python kernels: they write in place, so that a launch can be judged.

B requests (or tokens), H heads, K and V head sizes, D conv channels, W conv width. The same functions on host tensors
are the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Launch = Callable[..., None]


def fused_gdn_gating(
    g: torch.Tensor, beta: torch.Tensor, a_log: torch.Tensor, a: torch.Tensor, b: torch.Tensor, dt_bias: torch.Tensor
) -> None:
    """``g = -exp(a_log) * softplus(a + dt_bias)``, ``beta = sigmoid(b)``: ``[B, H]``; `a_log`, `dt_bias` ``[H]``."""
    g.copy_(-a_log.exp() * torch.nn.functional.softplus(a + dt_bias))
    beta.copy_(b.sigmoid())


def causal_conv1d_update(
    out: torch.Tensor, x: torch.Tensor, conv_state: torch.Tensor, weight: torch.Tensor, slots: torch.Tensor
) -> None:
    """One step of the convolution: `x` ``[B, D]``, `conv_state` ``[slots, D, W - 1]``, `weight` ``[D, W]``."""
    window = torch.cat([conv_state.index_select(0, slots), x[:, :, None]], dim=-1)
    out.copy_(torch.nn.functional.silu((window * weight).sum(-1)))
    conv_state.index_copy_(0, slots, window[..., 1:].contiguous())


def fused_sigmoid_gating_delta_rule_update(
    out: torch.Tensor,
    qkv: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    recurrent_state: torch.Tensor,
    slots: torch.Tensor,
) -> None:
    """One delta-rule step: `qkv` ``[3, B, H, K]``, `recurrent_state` ``[slots, H, K, K]``, `out` ``[B, H, K]``."""
    q, k, v = qkv[0], qkv[1], qkv[2]
    state = recurrent_state.index_select(0, slots) * g.exp()[..., None, None]
    seen = (state * k[..., None]).sum(-2)
    state = state + k[..., None] * ((v - seen) * beta[..., None])[..., None, :]
    out.copy_((state * q[..., None]).sum(-2))
    recurrent_state.index_copy_(0, slots, state)


KERNELS = (fused_gdn_gating, causal_conv1d_update, fused_sigmoid_gating_delta_rule_update)


def decode_batch(device: str, requests: int = 4, heads: int = 2, size: int = 4, width: int = 4) -> dict[str, Any]:
    """Seeded inputs, states and outputs of one layer for `requests` requests; made on the host and copied."""
    generator = torch.Generator().manual_seed(17)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    channels, slots = 3 * heads * size, requests + 2
    tensors = {
        "a_log": normal(heads),
        "a": normal(requests, heads),
        "b": normal(requests, heads),
        "dt_bias": normal(heads),
        "g": torch.zeros(requests, heads),
        "beta": torch.zeros(requests, heads),
        "x": normal(requests, channels),
        "weight": normal(channels, width),
        "conv_state": normal(slots, channels, width - 1),
        "conv_out": torch.zeros(requests, channels),
        "qkv": normal(3, requests, heads, size) / size,
        "recurrent_state": normal(slots, heads, size, size),
        "core_output": torch.zeros(requests, heads, size),
        "slots": torch.arange(requests, dtype=torch.int64) + 1,
    }
    return {name: tensor.to(device, copy=True) for name, tensor in tensors.items()}


def arguments(batch: dict[str, Any]) -> dict[Callable[..., None], tuple[Any, ...]]:
    """Kernel -> its arguments out of `batch`, in the order in which the layer launches them."""
    names = {
        causal_conv1d_update: ("conv_out", "x", "conv_state", "weight", "slots"),
        fused_gdn_gating: ("g", "beta", "a_log", "a", "b", "dt_bias"),
        fused_sigmoid_gating_delta_rule_update: ("core_output", "qkv", "g", "beta", "recurrent_state", "slots"),
    }
    return {kernel: tuple(batch[name] for name in wanted) for kernel, wanted in names.items()}


def forward_core(launch: Launch, batch: dict[str, Any]) -> None:
    """What a GDN layer launches for a decode step."""
    for kernel, given in arguments(batch).items():
        launch(kernel, *given)


def reference(steps: int = 1) -> dict[str, torch.Tensor]:
    """The batch on the host after `steps` steps."""
    batch = decode_batch("cpu")
    for _ in range(steps):
        forward_core(lambda kernel, *given: kernel(*given), batch)
    return batch
