"""The pieces of a GDN layer apart, for hosts that do not want them in one launch: gates, and the causal convolution.

Plain and right rather than quick: `GdnDecode` and `GdnPrepare` are what to use where they fit.
"""

from __future__ import annotations

from typing import Any

import torch
import triton

from hardpoint_kernels import checks
from hardpoint_kernels.errors import KernelRefused
from hardpoint_kernels.gdn._piece_kernels import conv_kernel, gating_kernel
from hardpoint_kernels.gdn.heads import WIDTH, check_width
from hardpoint_kernels.launch import PLAIN, Launcher

FLOATS = (torch.bfloat16, torch.float16, torch.float32)
INDICES = (torch.int32, torch.int64)
GATING = "gdn_gating"
CONV = "causal_conv1d"


def gdn_gating(
    a: torch.Tensor, b: torch.Tensor, A_log: torch.Tensor, dt_bias: torch.Tensor, *, launcher: Launcher = PLAIN
) -> tuple[torch.Tensor, torch.Tensor]:
    """``g = -exp(A_log) softplus(a + dt_bias)`` and ``beta = sigmoid(b)``, float32 ``[T, HV]``, neither rounded.

    Args:
        a, b: ``[T, HV]``; A_log, dt_bias ``[HV]``.

    Raises:
        KernelRefused: a sentence; nothing was launched.
    """
    tokens, heads = a.shape[0], A_log.shape[0]
    for name, tensor in (("a", a), ("b", b)):
        checks.expect_shape(GATING, name, tensor, (tokens, heads), "[tokens, HV]")
        checks.expect_dense_rows(GATING, name, tensor)
        checks.expect_dtype(GATING, name, tensor, FLOATS)
    checks.expect_shape(GATING, "dt_bias", dt_bias, (heads,), "[HV]")
    checks.expect_one_device(GATING, {"a": a, "b": b, "A_log": A_log, "dt_bias": dt_bias})
    g, beta = (torch.empty(tokens, heads, dtype=torch.float32, device=a.device) for _ in range(2))
    if tokens:
        constants = {
            "stride_a": a.stride(0), "stride_b": b.stride(0), "HV": heads, "HV_PADDED": triton.next_power_of_2(heads),
            "BT": 32,
        }  # fmt: skip
        grid = (triton.cdiv(tokens, 32),)
        args = (a, b, A_log, dt_bias, g, beta, tokens)
        launcher.bind(gating_kernel, *args, grid=grid, **constants)(*args, grid=grid)
    return g, beta


def causal_conv1d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    conv_state: torch.Tensor,
    slots: torch.Tensor,
    query_start_loc: torch.Tensor,
    *,
    has_initial_state: torch.Tensor | None = None,
    num_accepted_tokens: torch.Tensor | None = None,
    silu: bool = True,
    null_slot: int = -1,
    launcher: Launcher = PLAIN,
) -> torch.Tensor:
    """Convolution of sequences with their windows in a pool: a prefill, or a step of decoding with several tokens each.

    Args:
        x: ``[T, channels]``.
        weight: ``[channels, 4]``; bias ``[channels]`` or None.
        conv_state: ``[pool, >= 3, channels]``, in place, of x's dtype.
        slots: ``[N]``; padding as for `GdnDecode`, its output rows are zero, and so are rows past the last token.
        query_start_loc: ``[N + 1]``.
        has_initial_state: ``[N]`` bool, for a prefill: without it the window begins at zero.
        num_accepted_tokens: ``[N]``, for a step of decoding: the window begins at row ``accepted - 1``, and keeps the
            step's tokens behind the two newest of before. Exactly one of the two is given.
        silu: apply SiLU.

    Raises:
        KernelRefused: a sentence; nothing was launched.
    """
    tokens, channels, sequences = x.shape[0], x.shape[1], slots.shape[0]
    check_width(CONV, weight)
    checks.expect_shape(CONV, "weight", weight, (channels, WIDTH), "[channels, 4]")
    checks.expect_dense_rows(CONV, "x", x)
    checks.expect_dtype(CONV, "x", x, FLOATS)
    checks.expect_dtype(CONV, "conv_state", conv_state, (x.dtype,))
    if conv_state.dim() != 3 or conv_state.shape[1] < WIDTH - 1 or conv_state.shape[2] != channels:
        raise KernelRefused(
            f"{CONV}: conv_state must be [pool, at least 3, {channels}], got {list(conv_state.shape)}; nothing was "
            "launched."
        )
    if (has_initial_state is None) == (num_accepted_tokens is None):
        raise KernelRefused(
            f"{CONV} takes has_initial_state (a prefill) or num_accepted_tokens (a step of decoding), got "
            f"{'neither' if has_initial_state is None else 'both'}; nothing was launched."
        )
    checks.expect_shape(CONV, "slots", slots, (sequences,), "[sequences]")
    checks.expect_shape(CONV, "query_start_loc", query_start_loc, (sequences + 1,), "[sequences + 1]")
    which, chosen = (
        ("has_initial_state", has_initial_state) if has_initial_state is not None
        else ("num_accepted_tokens", num_accepted_tokens)
    )  # fmt: skip
    assert chosen is not None
    checks.expect_shape(CONV, which, chosen, (sequences,), "[sequences]")
    for name, tensor in (("slots", slots), ("query_start_loc", query_start_loc)):
        checks.expect_dtype(CONV, name, tensor, INDICES)
    tensors = {"x": x, "weight": weight, "conv_state": conv_state, "slots": slots, which: chosen}
    checks.expect_one_device(CONV, {**tensors, "query_start_loc": query_start_loc})
    out = torch.empty(tokens, channels, dtype=x.dtype, device=x.device)
    if tokens:
        constants: dict[str, Any] = {
            "null_slot": null_slot, "stride_x": x.stride(0), "stride_out": out.stride(0),
            "stride_slots": slots.stride(0), "stride_conv": conv_state.stride(0),
            "stride_conv_tap": conv_state.stride(1), "stride_conv_dim": conv_state.stride(2),
            "stride_weight": weight.stride(0), "stride_weight_tap": weight.stride(1), "CHANNELS": channels,
            "HAS_BIAS": bias is not None, "SILU": silu, "SPEC": num_accepted_tokens is not None, "BC": 256,
        }  # fmt: skip
        grid = (triton.cdiv(channels, 256), sequences + 1)
        args = (
            x, weight, bias, conv_state, out, slots, num_accepted_tokens, has_initial_state, query_start_loc,
            conv_state.shape[0], sequences, tokens,
        )  # fmt: skip
        launcher.bind(conv_kernel, *args, grid=grid, **constants)(*args, grid=grid)
    return out
