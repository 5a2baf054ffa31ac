"""The two kernels of the chunk rule. `chunk.py` says what they compute and why they are cut like this."""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _level(X, A, mask):
    """From the inverse `X` of the blocks on the diagonal to that of blocks four times their size.

    With the blocks' off-diagonal part N = X A (masked), which is nilpotent of degree 4: (I + N)^-1 = (I - N)(I + N^2).
    Entries of all these stay near 1 (they are products of contractions), so that half precision does.
    """
    N = tl.dot(X.to(tl.float16), tl.where(mask, A, 0.0).to(tl.float16)).to(tl.float16)
    square = tl.dot(N, N).to(tl.float16)
    inner = X + tl.dot(square, X.to(tl.float16))
    return inner - tl.dot(N, inner.to(tl.float16))


@triton.jit
def _merge_pairs(X, A, SIZE: tl.constexpr):
    """From the inverse `X` of blocks of `SIZE` on the diagonal to that of twice the size, in four 16 x 16 matrices."""
    i = tl.arange(0, 16)[None, :, None]
    j = tl.arange(0, 16)[None, None, :]
    off = tl.where((i // (2 * SIZE) == j // (2 * SIZE)) & (i // SIZE != j // SIZE), A, 0.0).to(tl.float16)
    X_half = X.to(tl.float16)
    return X - tl.dot(tl.dot(X_half, off).to(tl.float16), X_half)


@triton.jit
def _inverse(A, CHUNK: tl.constexpr, SMALL: tl.constexpr):
    """``(I + A)^-1`` of a strictly lower triangular ``[64, 64]``, float32: of blocks of 16 first, then of all.

    With `SMALL` the blocks of 16 are inverted as four small matrices, else inside the large one.
    """
    i = tl.arange(0, CHUNK)[:, None]
    j = tl.arange(0, CHUNK)[None, :]
    if SMALL:
        p = tl.arange(0, 4)[:, None, None, None]
        r = tl.arange(0, 4)[None, None, :, None]
        blocks = tl.sum(tl.where(p == r, tl.reshape(A, [4, 16, 4, 16]), 0.0), 2)
        a = tl.arange(0, 16)[None, :, None]
        b = tl.arange(0, 16)[None, None, :]
        X = tl.where(a == b, 1.0, 0.0) - tl.where(a // 2 == b // 2, blocks, 0.0)
        X = _merge_pairs(X, blocks, 2)
        X = _merge_pairs(X, blocks, 4)
        X = _merge_pairs(X, blocks, 8)
        X = tl.reshape(tl.where(p == r, X[:, :, None, :], 0.0), [CHUNK, CHUNK])
    else:
        small = tl.where(i // 4 == j // 4, A, 0.0).to(tl.float16)
        inner = tl.where(i == j, 1.0, 0.0) + tl.dot(small, small)
        X = inner - tl.dot(small, inner.to(tl.float16))
        X = _level(X, A, (i // 16 == j // 16) & (i // 4 != j // 4))
    return _level(X, A, i // 16 != j // 16)


@triton.jit(do_not_specialize=["num_sequences"])
def chunk_prepare_kernel(
    q,
    k,
    v,
    g,
    beta,
    w,
    u,
    attention,
    decay,
    starts,
    of_sequence,
    num_sequences,
    scale: tl.constexpr,
    H: tl.constexpr,
    HV: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    CHUNK: tl.constexpr,
    SMALL: tl.constexpr,
):
    """One program: one chunk and one v head."""
    hv = tl.program_id(0)
    h = hv // (HV // H)
    chunk = tl.program_id(1).to(tl.int64)
    sequence = tl.load(of_sequence + 2 * chunk)
    if (sequence < 0) | (sequence >= num_sequences):
        return
    begin = tl.load(starts + sequence).to(tl.int64)
    length = tl.load(starts + sequence + 1).to(tl.int64) - begin
    i = tl.arange(0, CHUNK)
    t = tl.load(of_sequence + 2 * chunk + 1) * CHUNK + i
    inside = t < length
    rows = begin + t
    column_k = tl.arange(0, K)
    column_v = tl.arange(0, V)
    key = tl.load(k + (rows[:, None] * H + h) * K + column_k[None, :], mask=inside[:, None], other=0.0)
    query = tl.load(q + (rows[:, None] * H + h) * K + column_k[None, :], mask=inside[:, None], other=0.0)
    rate = tl.load(beta + rows * HV + hv, mask=inside, other=0.0)
    log_decay = tl.cumsum(tl.load(g + rows * HV + hv, mask=inside, other=0.0), 0)
    # Rows past the end add nothing to the sum: the last entry is the decay of the whole chunk.
    place = chunk * HV + hv
    tl.store(decay + place * CHUNK + i, log_decay)
    between = log_decay[:, None] - log_decay[None, :]
    scores = tl.dot(query, tl.trans(key)) * tl.exp(tl.where(i[:, None] >= i[None, :], between, float("-inf")))
    tl.store(
        attention + (place * CHUNK + i[:, None]) * CHUNK + i[None, :], (scores * scale).to(attention.dtype.element_ty)
    )
    A = tl.dot(key, tl.trans(key)) * tl.exp(tl.where(i[:, None] > i[None, :], between, float("-inf")))
    T = _inverse(A * rate[:, None], CHUNK, SMALL)
    value = tl.load(v + (rows[:, None] * HV + hv) * V + column_v[None, :], mask=inside[:, None], other=0.0)
    T_u = (T * rate[None, :]).to(value.dtype)
    tl.store(u + (place * V + column_v[None, :]) * CHUNK + i[:, None], tl.dot(T_u, value).to(u.dtype.element_ty))
    T_w = (T * (rate * tl.exp(log_decay))[None, :]).to(key.dtype)
    tl.store(w + (place * CHUNK + i[:, None]) * K + column_k[None, :], tl.dot(T_w, key).to(w.dtype.element_ty))


@triton.jit(do_not_specialize=["pool_size", "num_sequences"])
def chunk_scan_kernel(
    q,
    k,
    w,
    u,
    attention,
    decay,
    state,
    begins,
    out,
    slots,
    has_initial_state,
    starts,
    first_chunk,
    pool_size,
    num_sequences,
    scale: tl.constexpr,
    null_slot: tl.constexpr,
    stride_state: tl.constexpr,
    stride_out: tl.constexpr,
    H: tl.constexpr,
    HV: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    CHUNK: tl.constexpr,
    BV: tl.constexpr,
    STAGES: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """One program: `BV` rows of one sequence's state for one v head, from its first chunk to its last.

    With `SPLIT` above 1 it is one segment of so many, which begins with a state of `begins` ``[N, SPLIT, HV, V, K]``.
    """
    block = tl.program_id(0)
    hv = tl.program_id(1)
    sequence = tl.program_id(2)
    segment = 0
    if SPLIT > 1:
        segment = sequence % SPLIT
        sequence = sequence // SPLIT
    h = hv // (HV // H)
    begin = tl.load(starts + sequence).to(tl.int64)
    length = tl.load(starts + sequence + 1).to(tl.int64) - begin
    if length <= 0:
        return
    i = tl.arange(0, CHUNK)
    value = block * BV + tl.arange(0, BV)
    column = tl.arange(0, K)
    line = tl.full((), -1, tl.int64)
    fresh = True
    if sequence < num_sequences:
        line = tl.load(slots + sequence).to(tl.int64)
        fresh = tl.load(has_initial_state + sequence) == 0
    out += begin * stride_out + hv * V
    if (line < 0) | (line == null_slot) | (line >= pool_size):
        if segment > 0:
            return
        zero = tl.zeros([CHUNK, BV], tl.float32).to(out.dtype.element_ty)
        for at in range(0, length, CHUNK):
            rows = at + i
            tl.store(out + rows[:, None] * stride_out + value[None, :], zero, mask=(rows < length)[:, None])
        return

    q += (begin * H + h) * K
    k += (begin * H + h) * K
    place = state + line * stride_state + hv * V * K + value[:, None] * K + column[None, :]
    count = tl.cdiv(length, CHUNK).to(tl.int32)
    chunk = tl.load(first_chunk + sequence).to(tl.int64) * HV + hv
    first = 0
    leaves_state = True
    S = tl.zeros([BV, K], tl.float32)
    if SPLIT > 1:
        per = tl.cdiv(count, SPLIT)
        first = segment * per
        if first >= count:
            return
        leaves_state = first + per >= count
        count = tl.minimum(per, count - first)
        chunk += first * HV
        # Not from the pool, where the last segment writes meanwhile.
        own = (sequence.to(tl.int64) * SPLIT + segment) * HV + hv
        S += tl.load(begins + own * V * K + value[:, None] * K + column[None, :])
    else:
        if not fresh:
            S += tl.load(place).to(tl.float32)
    # Everything is transposed, [value, token]: S, v_new and the output are left operands and accumulators, which tensor
    # cores take from registers; w, q, k and the attention matrix are right operands, straight from shared memory.
    for c in tl.range(0, count, num_stages=STAGES):
        at = (chunk + c * HV) * CHUNK
        rows = (first + c) * CHUNK + i
        inside = (rows < length)[:, None]
        wt = tl.load(w + (at + i[:, None]) * K + column[None, :])
        ut = tl.load(u + (chunk + c * HV) * V * CHUNK + value[:, None] * CHUNK + i[None, :])
        qt = tl.load(q + rows[:, None] * (H * K) + column[None, :], mask=inside, other=0.0)
        kt = tl.load(k + rows[:, None] * (H * K) + column[None, :], mask=inside, other=0.0)
        at_qk = tl.load(attention + (at + i[:, None]) * CHUNK + i[None, :])
        log_decay = tl.load(decay + at + i)
        last = tl.load(decay + at + CHUNK - 1)
        S_half = S.to(kt.dtype)
        new = ut.to(tl.float32) - tl.dot(S_half, tl.trans(wt))
        o = tl.dot(S_half, tl.trans(qt)) * (scale * tl.exp(log_decay))[None, :]
        o = tl.dot(new.to(kt.dtype), tl.trans(at_qk), o)
        weighted = (new * tl.exp(last - log_decay)[None, :]).to(kt.dtype)
        S = tl.dot(weighted, kt, S * tl.exp(last))
        tl.store(
            out + rows[None, :] * stride_out + value[:, None], o.to(out.dtype.element_ty), mask=rows[None, :] < length
        )
    if leaves_state:
        tl.store(place, S.to(state.dtype.element_ty))
