"""The kernel before the chunk rule: convolution, split, l2 norm and gating. `prefill_conv.py` says what it does."""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["pool_size", "num_sequences"])
def prefill_kernel(
    x,
    weight,
    bias,
    conv_state,
    a,
    b,
    A_log,
    dt_bias,
    q,
    k,
    v,
    g,
    beta,
    slots,
    has_initial_state,
    starts,
    of_sequence,
    pool_size,
    num_sequences,
    null_slot: tl.constexpr,
    stride_x: tl.constexpr,
    stride_a: tl.constexpr,
    stride_b: tl.constexpr,
    stride_conv: tl.constexpr,
    stride_conv_tap: tl.constexpr,
    stride_conv_dim: tl.constexpr,
    stride_weight: tl.constexpr,
    stride_weight_tap: tl.constexpr,
    H: tl.constexpr,
    HV: tl.constexpr,
    D: tl.constexpr,
    HV_PADDED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    CHUNK: tl.constexpr,
    BT: tl.constexpr,
):
    """One program: one chunk of a sequence, and the channels of one head (of q, k or v), or all gates of the chunk."""
    chunk = tl.program_id(1)
    head = tl.program_id(0)
    sequence = tl.load(of_sequence + 2 * chunk)
    if sequence < 0:
        return
    begin = tl.load(starts + sequence).to(tl.int64)
    length = tl.load(starts + sequence + 1).to(tl.int64) - begin
    first = tl.load(of_sequence + 2 * chunk + 1) * CHUNK
    line = tl.full((), -1, tl.int64)
    fresh = True
    if sequence < num_sequences:
        line = tl.load(slots + sequence).to(tl.int64)
        fresh = tl.load(has_initial_state + sequence) == 0
    used = (line >= 0) & (line != null_slot) & (line < pool_size)
    x += begin * stride_x

    if head == 2 * H + HV:
        heads = tl.arange(0, HV_PADDED)
        rate = -tl.exp(tl.load(A_log + heads, mask=heads < HV, other=0.0).to(tl.float32))
        offset = tl.load(dt_bias + heads, mask=heads < HV, other=0.0).to(tl.float32)
        for at in range(first, tl.minimum(first + CHUNK, length), BT):
            t = at + tl.arange(0, BT)
            inside = (t < length)[:, None] & (heads < HV)[None, :]
            rows = (begin + t)[:, None]
            shifted = tl.load(a + rows * stride_a + heads[None, :], mask=inside, other=0.0).to(tl.float32)
            shifted += offset[None, :]
            softplus = tl.where(shifted <= 20.0, tl.log(1.0 + tl.exp(shifted)), shifted)
            raw = tl.load(b + rows * stride_b + heads[None, :], mask=inside, other=0.0).to(tl.float32)
            tl.store(g + rows * HV + heads[None, :], tl.where(used, rate[None, :] * softplus, 0.0), mask=inside)
            tl.store(beta + rows * HV + heads[None, :], tl.where(used, tl.sigmoid(raw), 0.0), mask=inside)
        return

    channel = head * D + tl.arange(0, D)
    if head < H:
        out = q + channel
        stride_out = H * D
    elif head < 2 * H:
        out = k + (channel - H * D)
        stride_out = H * D
    else:
        out = v + (channel - 2 * H * D)
        stride_out = HV * D
    if not used:
        zero = tl.zeros([BT, D], tl.float32).to(v.dtype.element_ty)
        for at in range(first, tl.minimum(first + CHUNK, length), BT):
            t = at + tl.arange(0, BT)
            tl.store(out[None, :] + (begin + t)[:, None] * stride_out, zero, mask=(t < length)[:, None])
        return

    taps = weight + channel * stride_weight
    w0 = tl.load(taps).to(tl.float32)[None, :]
    w1 = tl.load(taps + stride_weight_tap).to(tl.float32)[None, :]
    w2 = tl.load(taps + 2 * stride_weight_tap).to(tl.float32)[None, :]
    w3 = tl.load(taps + 3 * stride_weight_tap).to(tl.float32)[None, :]
    window = conv_state + line * stride_conv + channel * stride_conv_dim
    for at in range(first, tl.minimum(first + CHUNK, length), BT):
        t = at + tl.arange(0, BT)
        inside = (t < length)[:, None]
        source = x + t[:, None] * stride_x + channel[None, :]
        found = tl.load(source, mask=inside, other=0.0).to(tl.float32) * w3
        if at == 0:
            ahead = t[:, None]
            x2 = tl.load(source - stride_x, mask=inside & (ahead >= 1), other=0.0).to(tl.float32)
            x1 = tl.load(source - 2 * stride_x, mask=inside & (ahead >= 2), other=0.0).to(tl.float32)
            x0 = tl.load(source - 3 * stride_x, mask=inside & (ahead >= 3), other=0.0).to(tl.float32)
            if not fresh:
                old = window[None, :] + ahead * stride_conv_tap
                x2 += tl.load(old + 2 * stride_conv_tap, mask=inside & (ahead < 1), other=0.0).to(tl.float32)
                x1 += tl.load(old + stride_conv_tap, mask=inside & (ahead < 2), other=0.0).to(tl.float32)
                x0 += tl.load(old, mask=inside & (ahead < 3), other=0.0).to(tl.float32)
        else:
            x2 = tl.load(source - stride_x, mask=inside, other=0.0).to(tl.float32)
            x1 = tl.load(source - 2 * stride_x, mask=inside, other=0.0).to(tl.float32)
            x0 = tl.load(source - 3 * stride_x, mask=inside, other=0.0).to(tl.float32)
        found += x2 * w2 + x1 * w1 + x0 * w0
        if HAS_BIAS:
            found += tl.load(bias + channel).to(tl.float32)[None, :]
        found = found / (1.0 + tl.exp(-found))
        if head < 2 * H:
            found = found * (1.0 / tl.sqrt(tl.sum(found * found, 1) + 1e-6))[:, None]
        tl.store(out[None, :] + (begin + t)[:, None] * stride_out, found.to(v.dtype.element_ty), mask=inside)

    if first == 0:
        # This program read the window, so it writes the new one: no other program has these channels of this sequence's
        # first chunk. A short sequence keeps rows of the old window.
        row = tl.arange(0, 4)[:, None]
        position = length - 3 + row
        kept = (row < 3) & (position >= 0)
        new = tl.load(x + position * stride_x + channel[None, :], mask=kept, other=0.0)
        if not fresh:
            old = tl.load(
                window[None, :] + (position + 3) * stride_conv_tap, mask=(row < 3) & (position < 0), other=0.0
            )
            new = tl.where(kept, new, old)
        tl.debug_barrier()  # all threads have read before one writes
        tl.store(window[None, :] + row * stride_conv_tap, new, mask=row < 3)
