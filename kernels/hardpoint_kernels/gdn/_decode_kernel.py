"""The decode kernel: one launch for a whole step. `decode.py` says what it promises."""

# mypy: ignore-errors
# ruff: noqa: SIM102, SIM108

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _silu(x):
    return x / (1.0 + tl.exp(-x))


@triton.jit
def _taps(x, window, channel, tap, t, stride_x, stride_conv_tap, stride_conv_dim):
    """What tap 0 to 3 of token `t` sees: rows of the request's window, then tokens of this step."""
    position = t + tap - 3
    before = window + (position + 3) * stride_conv_tap + channel * stride_conv_dim
    now = x + position * stride_x + channel
    return tl.load(tl.where(position < 0, before, now)).to(tl.float32)


@triton.jit
def _write_window(window, prior, channel, x, count, stride_x, stride_conv_tap, stride_conv_dim):
    """The window as the next step reads it: the two newest of before, then the tokens of this step."""
    source = prior + channel * stride_conv_dim
    kept1 = tl.load(source + stride_conv_tap)
    kept2 = tl.load(source + 2 * stride_conv_tap)
    tl.debug_barrier()
    target = window + channel * stride_conv_dim
    tl.store(target, kept1)
    tl.store(target + stride_conv_tap, kept2)
    for t in range(count):
        tl.store(target + (2 + t) * stride_conv_tap, tl.load(x + t * stride_x + channel))


@triton.jit
def _raw_taps(x, window, channel, tap, stride_x, stride_conv_tap, stride_conv_dim):
    """As `_taps` of the only token, in the type of the inputs: what is stored again has to be the same bits."""
    position = tap - 3
    before = window + tap * stride_conv_tap + channel * stride_conv_dim
    now = x + position * stride_x + channel
    return tl.load(tl.where(position < 0, before, now))


@triton.jit
def _count_and_write(arrivals, sums, window, taps, channel, tap, stride_tap, stride_dim, READERS: tl.constexpr):
    """The last of a window's readers writes it from registers: taps 1 to 3 of this token are the next step's window.

    A reader counts itself only with the window in its registers: what it adds is computed from every value that it
    read (`sums` of squares are never negative, and NaN compares false), so no fence is needed.
    """
    arrived = 0
    if READERS > 1:
        arrived = tl.atomic_add(arrivals, tl.where(sums < 0.0, 2, 1), sem="relaxed")
    if arrived == READERS - 1:
        tl.store(window + (tap - 1) * stride_tap + channel * stride_dim, taps, mask=tap >= 1)
        if READERS > 1:
            tl.store(arrivals, 0)  # as found, for the next launch


@triton.jit(do_not_specialize=["pool_size", "num_requests", "num_tokens"])
def decode_kernel(
    x,
    conv_state,
    weight,
    bias,
    a,
    b,
    A_log,
    dt_bias,
    state,
    out,
    z,
    norm_weight,
    slots,
    num_accepted_tokens,
    query_start_loc,
    arrivals,
    pool_size,
    num_requests,
    num_tokens,
    scale: tl.constexpr,
    eps: tl.constexpr,
    null_slot: tl.constexpr,
    stride_x: tl.constexpr,
    stride_a: tl.constexpr,
    stride_b: tl.constexpr,
    stride_z: tl.constexpr,
    stride_out: tl.constexpr,
    stride_conv: tl.constexpr,
    stride_conv_tap: tl.constexpr,
    stride_conv_dim: tl.constexpr,
    stride_state: tl.constexpr,
    stride_slots: tl.constexpr,
    stride_weight: tl.constexpr,
    stride_weight_tap: tl.constexpr,
    H: tl.constexpr,
    HV: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    BR: tl.constexpr,
    KI: tl.constexpr,
    SR: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    NORM: tl.constexpr,
    GATE_SILU: tl.constexpr,
    SPEC: tl.constexpr,
    ORDER: tl.constexpr,
    STAGES: tl.constexpr,
    WINDOW: tl.constexpr,
):
    """One program: `BR` rows of one request's state, which are rows (head, v) of ``[HV, V, K]``, of one k head.

    `WINDOW` is how a window is written where each request has one token: 0 read once more at the end, 1 from registers
    as soon as its readers are counted, 2 from registers behind the state. With 1 and 2 all that the token needs is
    asked for before anything is waited for. With speculative tokens it is 0, whatever is asked.
    """
    BLOCKS: tl.constexpr = HV * V // BR
    READERS: tl.constexpr = (HV // H) * V // BR
    KC: tl.constexpr = K // KI
    HELD: tl.constexpr = (WINDOW > 0) and (not SPEC)
    program = tl.program_id(0)
    if ORDER > 1:  # tests: another order of programs, same result; ORDER shares no factor with their number
        program = (program * ORDER) % tl.num_programs(0)
    n = program // BLOCKS
    block = program % BLOCKS
    h = block // READERS
    rows = block * BR + tl.arange(0, BR)
    heads = rows // V
    if SPEC:
        first = tl.load(query_start_loc + n).to(tl.int64)
        count = tl.load(query_start_loc + n + 1).to(tl.int64) - first
        back = tl.maximum(tl.load(num_accepted_tokens + n).to(tl.int64) - 1, 0)
        if n == num_requests - 1:
            zero = tl.zeros([BR], tl.float32).to(out.dtype.element_ty)
            for row in range(first + count, num_tokens):
                tl.store(out + row * stride_out + rows, zero)
        if count == 0:
            return
    else:
        first = n.to(tl.int64)
        count = 1
        back = 0
    line = tl.load(slots + n * stride_slots).to(tl.int64)
    if SPEC:
        read = tl.load(slots + n * stride_slots + back).to(tl.int64)
    else:
        read = line
    unused = (line < 0) | (line == null_slot) | (line >= pool_size)
    unused = unused | (read < 0) | (read == null_slot) | (read >= pool_size)
    if unused:
        zero = tl.zeros([BR], tl.float32).to(out.dtype.element_ty)
        for t in range(count):
            tl.store(out + (first + t) * stride_out + rows, zero)
        return

    # K is cut into KC chunks of KI. A row of [BR, KC, KI] then lies over KI / 4 lanes and all its chunks in one thread:
    # row sums are additions first and only then a few shuffles; over all lanes they would be five shuffles each.
    kc = tl.arange(0, KC)
    ki = tl.arange(0, KI)
    PARTS: tl.constexpr = BR // SR
    if PARTS == 1:
        tile = rows[:, None, None] * K + kc[None, :, None] * KI + ki[None, None, :]
        if not HELD:
            s = tl.load(state + read * stride_state + tile).to(tl.float32)

    # The sums over taps also fix the layout of what comes after: without a reduction Triton computes all channels of q
    # and k again in every thread that needs them.
    # q and k together, [KC, KI, (q, k)], with the taps behind.
    column = kc[:, None, None] * KI + ki[None, :, None]
    qk_channel = (tl.arange(0, 2)[None, None, :] * H + h) * K + column
    v_channel = 2 * H * K + rows
    tap3 = tl.arange(0, 4)[None, None, None, :]
    tap0 = tl.arange(0, 4)[:, None]
    window = conv_state + line * stride_conv
    prior = window + back * stride_conv_tap
    x += first * stride_x
    qk_weight = tl.load(weight + qk_channel[:, :, :, None] * stride_weight + tap3 * stride_weight_tap).to(tl.float32)
    v_weight = tl.load(weight + v_channel[None, :] * stride_weight + tap0 * stride_weight_tap).to(tl.float32)
    if BR <= V:  # one head: scalars
        heads = block * BR // V
    rate = -tl.exp(tl.load(A_log + heads).to(tl.float32))
    offset = tl.load(dt_bias + heads).to(tl.float32)

    arrived = 0
    for t in range(count):
        token = first + t
        if HELD:
            qk_taps = _raw_taps(x, window, qk_channel[:, :, :, None], tap3, stride_x, stride_conv_tap, stride_conv_dim)
            v_taps = _raw_taps(x, window, v_channel[None, :], tap0, stride_x, stride_conv_tap, stride_conv_dim)
            shifted = tl.load(a + token * stride_a + heads).to(tl.float32) + offset
            raw_beta = tl.load(b + token * stride_b + heads).to(tl.float32)
            if NORM:
                gate = tl.load(z + token * stride_z + rows).to(tl.float32)
                norm = tl.load(norm_weight + rows % V).to(tl.float32)
            if PARTS == 1:
                s = tl.load(state + line * stride_state + tile).to(tl.float32)
            xqk = qk_taps.to(tl.float32)
            xv = v_taps.to(tl.float32)
        else:
            xqk = _taps(x, prior, qk_channel[:, :, :, None], tap3, t, stride_x, stride_conv_tap, stride_conv_dim)
            xv = _taps(x, prior, v_channel[None, :], tap0, t, stride_x, stride_conv_tap, stride_conv_dim)
        qk = tl.sum(xqk * qk_weight, 3)
        v = tl.sum(xv * v_weight, 0)
        if HAS_BIAS:
            qk += tl.load(bias + qk_channel).to(tl.float32)
            v += tl.load(bias + v_channel).to(tl.float32)
        qk = _silu(qk)
        v = _silu(v)
        qq, kk = tl.split(tl.sum(tl.reshape(qk * qk, [K, 2]), 0))
        q, k = tl.split(qk)
        kq = tl.sum(tl.reshape(k * q, [K]), 0)
        q_factor = scale / tl.sqrt(qq + 1e-6)
        k_factor = 1.0 / tl.sqrt(kk + 1e-6)
        q *= q_factor
        k *= k_factor
        kq *= q_factor * k_factor
        if HELD:
            tl.debug_barrier()  # several threads may hold one channel: all have read before one writes
            v_target = window + (tap0 - 1) * stride_conv_tap + v_channel[None, :] * stride_conv_dim
            tl.store(v_target, v_taps, mask=tap0 >= 1)
            if WINDOW == 1:
                _count_and_write(arrivals + n * H + h, qq + kk, window, qk_taps, qk_channel[:, :, :, None], tap3,
                                 stride_conv_tap, stride_conv_dim, READERS)  # fmt: skip
        elif READERS > 1:
            if t == 0:
                # The last of a window's readers writes it, and a reader counts itself only with the window in its
                # registers: what is added is computed from every value that was read (sums of squares are never
                # negative, and NaN compares false). So no fence is needed, and one would wait for the state too.
                one = tl.where(qq + kk < 0.0, 2, 1)
                tl.debug_barrier()
                arrived = tl.atomic_add(arrivals + n * H + h, one, sem="relaxed")
        if not HELD:
            shifted = tl.load(a + token * stride_a + heads).to(tl.float32) + offset
        softplus = tl.where(shifted <= 20.0, tl.log(1.0 + tl.exp(shifted)), shifted)
        decay = tl.exp(rate * softplus)
        if not HELD:
            raw_beta = tl.load(b + token * stride_b + heads).to(tl.float32)
        beta = tl.sigmoid(raw_beta)
        # Both sums over the state before this token: o = S_new q = decay * (S q) + delta * (k q).
        if PARTS == 1:
            seen = tl.sum(tl.sum(s * k[None, :, :], 1), 1)
            asked = tl.sum(tl.sum(s * q[None, :, :], 1), 1)
            delta = (v - decay * seen) * beta
            o = decay * asked + delta * kq
            if BR > V:
                s = s * decay[:, None, None]
            else:
                s = s * decay
            s += delta[:, None, None] * k[None, :, :]
        else:
            # The rows pass through in parts, the next ones on their way while one is worked on.
            part = tl.arange(0, PARTS)[:, None]
            v_parts = tl.reshape(v, [PARTS, SR])
            o_parts = tl.zeros([PARTS, SR], tl.float32)
            row = tl.arange(0, SR)[:, None, None] * K + kc[None, :, None] * KI + ki[None, None, :]
            line_of = state + line * stride_state + block * BR * K
            for p in tl.range(0, PARTS, num_stages=STAGES):
                s_part = tl.load(line_of + p * SR * K + row).to(tl.float32)
                seen = tl.sum(tl.sum(s_part * k[None, :, :], 1), 1)
                asked = tl.sum(tl.sum(s_part * q[None, :, :], 1), 1)
                mine = tl.sum(tl.where(part == p, v_parts, 0.0), 0)
                delta = (mine - decay * seen) * beta
                o_parts = tl.where(part == p, (decay * asked + delta * kq)[None, :], o_parts)
                s_part = s_part * decay + delta[:, None, None] * k[None, :, :]
                tl.store(line_of + p * SR * K + row, s_part.to(state.dtype.element_ty))
            o = tl.reshape(o_parts, [BR])
        if NORM:
            per_head = tl.reshape(o, [BR // V, V])
            mean = tl.sum(per_head * per_head, 1) / V
            per_head = per_head * tl.rsqrt(mean + eps)[:, None]
            o = tl.reshape(per_head, [BR])
            if not HELD:
                norm = tl.load(norm_weight + rows % V).to(tl.float32)
            o = o * norm
            if not HELD:
                gate = tl.load(z + token * stride_z + rows).to(tl.float32)
            if GATE_SILU:
                o = o * _silu(gate)
            else:
                o = o * tl.sigmoid(gate)
        tl.store(out + token * stride_out + rows, o.to(out.dtype.element_ty))
        if SPEC:
            write = tl.load(slots + n * stride_slots + t).to(tl.int64)
            if (write >= 0) & (write != null_slot) & (write < pool_size):
                tl.store(state + write * stride_state + tile, s.to(state.dtype.element_ty))
        elif PARTS == 1:
            tl.store(state + line * stride_state + tile, s.to(state.dtype.element_ty))
        if HELD and WINDOW == 2:
            _count_and_write(arrivals + n * H + h, qq + kk, window, qk_taps, qk_channel[:, :, :, None], tap3,
                             stride_conv_tap, stride_conv_dim, READERS)  # fmt: skip

    if not HELD:
        tl.debug_barrier()  # several threads may hold one channel: all have read before one writes
        _write_window(window, prior, v_channel, x, count, stride_x, stride_conv_tap, stride_conv_dim)
        if arrived == READERS - 1:
            _write_window(window, prior, qk_channel, x, count, stride_x, stride_conv_tap, stride_conv_dim)
            if READERS > 1:
                tl.store(arrivals + n * H + h, 0)  # as found, for the next launch
