"""The pieces of a GDN layer apart: gates, and the convolution of sequences and of single steps. See `pieces.py`."""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_tokens"])
def gating_kernel(
    a,
    b,
    A_log,
    dt_bias,
    g,
    beta,
    num_tokens,
    stride_a: tl.constexpr,
    stride_b: tl.constexpr,
    HV: tl.constexpr,
    HV_PADDED: tl.constexpr,
    BT: tl.constexpr,
):
    """One program: `BT` tokens, all heads."""
    rows = (tl.program_id(0) * BT + tl.arange(0, BT)).to(tl.int64)[:, None]
    heads = tl.arange(0, HV_PADDED)[None, :]
    inside = (rows < num_tokens) & (heads < HV)
    rate = -tl.exp(tl.load(A_log + heads, mask=heads < HV, other=0.0).to(tl.float32))
    shifted = tl.load(a + rows * stride_a + heads, mask=inside, other=0.0).to(tl.float32)
    shifted += tl.load(dt_bias + heads, mask=heads < HV, other=0.0).to(tl.float32)
    softplus = tl.where(shifted <= 20.0, tl.log(1.0 + tl.exp(shifted)), shifted)
    raw = tl.load(b + rows * stride_b + heads, mask=inside, other=0.0).to(tl.float32)
    tl.store(g + rows * HV + heads, rate * softplus, mask=inside)
    tl.store(beta + rows * HV + heads, tl.sigmoid(raw), mask=inside)


@triton.jit(do_not_specialize=["pool_size", "num_sequences", "num_tokens"])
def conv_kernel(
    x,
    weight,
    bias,
    conv_state,
    out,
    slots,
    num_accepted_tokens,
    has_initial_state,
    starts,
    pool_size,
    num_sequences,
    num_tokens,
    null_slot: tl.constexpr,
    stride_x: tl.constexpr,
    stride_out: tl.constexpr,
    stride_slots: tl.constexpr,
    stride_conv: tl.constexpr,
    stride_conv_tap: tl.constexpr,
    stride_conv_dim: tl.constexpr,
    stride_weight: tl.constexpr,
    stride_weight_tap: tl.constexpr,
    CHANNELS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SILU: tl.constexpr,
    SPEC: tl.constexpr,
    BC: tl.constexpr,
):
    """One program: `BC` channels of one sequence, token after token; number N is the rows past the last token."""
    sequence = tl.program_id(1)
    channel = tl.program_id(0) * BC + tl.arange(0, BC)
    there = channel < CHANNELS
    begin = tl.load(starts + sequence).to(tl.int64)
    end = num_tokens.to(tl.int64)
    line = tl.full((), -1, tl.int64)
    back = 0
    fresh = False
    if sequence < num_sequences:
        end = tl.load(starts + sequence + 1).to(tl.int64)
        line = tl.load(slots + sequence * stride_slots).to(tl.int64)
        if SPEC:
            back = tl.maximum(tl.load(num_accepted_tokens + sequence).to(tl.int32) - 1, 0)
        else:
            fresh = tl.load(has_initial_state + sequence) == 0
    count = end - begin
    if count <= 0:
        return
    if (line < 0) | (line == null_slot) | (line >= pool_size):
        zero = tl.zeros([BC], tl.float32).to(out.dtype.element_ty)
        for t in range(count):
            tl.store(out + (begin + t) * stride_out + channel, zero, mask=there)
        return
    window = conv_state + line * stride_conv + channel * stride_conv_dim
    prior = window + back * stride_conv_tap
    seen = there & (not fresh)
    x0 = tl.load(prior, mask=seen, other=0.0)
    x1 = tl.load(prior + stride_conv_tap, mask=seen, other=0.0)
    x2 = tl.load(prior + 2 * stride_conv_tap, mask=seen, other=0.0)
    taps = weight + channel * stride_weight
    w0 = tl.load(taps, mask=there, other=0.0).to(tl.float32)
    w1 = tl.load(taps + stride_weight_tap, mask=there, other=0.0).to(tl.float32)
    w2 = tl.load(taps + 2 * stride_weight_tap, mask=there, other=0.0).to(tl.float32)
    w3 = tl.load(taps + 3 * stride_weight_tap, mask=there, other=0.0).to(tl.float32)
    tl.debug_barrier()  # several threads may hold one channel: all have read before one writes
    if SPEC:
        tl.store(window, x1, mask=there)
        tl.store(window + stride_conv_tap, x2, mask=there)
    for t in range(count):
        x3 = tl.load(x + (begin + t) * stride_x + channel, mask=there, other=0.0)
        found = x0.to(tl.float32) * w0 + x1.to(tl.float32) * w1 + x2.to(tl.float32) * w2 + x3.to(tl.float32) * w3
        if HAS_BIAS:
            found += tl.load(bias + channel, mask=there, other=0.0).to(tl.float32)
        if SILU:
            found = found / (1.0 + tl.exp(-found))
        tl.store(out + (begin + t) * stride_out + channel, found.to(out.dtype.element_ty), mask=there)
        if SPEC:
            tl.store(window + (2 + t) * stride_conv_tap, x3, mask=there)
        x0, x1, x2 = x1, x2, x3
    if not SPEC:
        tl.store(window, x0, mask=there)
        tl.store(window + stride_conv_tap, x1, mask=there)
        tl.store(window + 2 * stride_conv_tap, x2, mask=there)
