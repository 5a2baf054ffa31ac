"""The two kernels that let parts of one sequence be scanned side by side. `chunk.py` says how they belong together."""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["pool_size"])
def chunk_segment_kernel(
    k,
    w,
    u,
    decay,
    summary,
    slots,
    starts,
    first_chunk,
    pool_size,
    null_slot: tl.constexpr,
    H: tl.constexpr,
    HV: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    CHUNK: tl.constexpr,
    BV: tl.constexpr,
    STAGES: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """One program: `BV` rows of what one segment does to a state, for one v head.

    Rows 0 to V are the state that it leaves when it begins at zero; rows V to V + K are what becomes of the rows of the
    identity when its values are zero. The last segment is not asked.
    """
    block = tl.program_id(0)
    hv = tl.program_id(1)
    place = tl.program_id(2).to(tl.int64)
    sequence = place // (SPLIT - 1)
    segment = (place % (SPLIT - 1)).to(tl.int32)
    begin = tl.load(starts + sequence).to(tl.int64)
    length = tl.load(starts + sequence + 1).to(tl.int64) - begin
    count = tl.cdiv(length, CHUNK).to(tl.int32)
    per = tl.cdiv(count, SPLIT)
    line = tl.load(slots + sequence).to(tl.int64)
    if ((segment + 1) * per >= count) | (line < 0) | (line == null_slot) | (line >= pool_size):
        return
    i = tl.arange(0, CHUNK)
    row = block * BV + tl.arange(0, BV)
    column = tl.arange(0, K)
    value = row[:, None] < V
    k += (begin * H + hv // (HV // H)) * K
    S = tl.where(row[:, None] - V == column[None, :], 1.0, 0.0)
    first = segment * per
    chunk = (tl.load(first_chunk + sequence).to(tl.int64) + first) * HV + hv
    for c in tl.range(0, per, num_stages=STAGES):
        at = (chunk + c * HV) * CHUNK
        rows = (first + c) * CHUNK + i  # every chunk is whole: it is not the last of its sequence
        wt = tl.load(w + (at + i[:, None]) * K + column[None, :])
        ut = tl.load(u + (chunk + c * HV) * V * CHUNK + row[:, None] * CHUNK + i[None, :], mask=value, other=0.0)
        kt = tl.load(k + rows[:, None].to(tl.int64) * (H * K) + column[None, :])
        log_decay = tl.load(decay + at + i)
        last = tl.load(decay + at + CHUNK - 1)
        new = ut.to(tl.float32) - tl.dot(S.to(kt.dtype), tl.trans(wt))
        weighted = (new * tl.exp(last - log_decay)[None, :]).to(kt.dtype)
        S = tl.dot(weighted, kt, S * tl.exp(last))
    tl.store(summary + ((place * HV + hv) * (V + K) + row[:, None]) * K + column[None, :], S)


@triton.jit(do_not_specialize=["pool_size"])
def chunk_join_kernel(
    state,
    summary,
    begins,
    slots,
    has_initial_state,
    starts,
    pool_size,
    null_slot: tl.constexpr,
    stride_state: tl.constexpr,
    HV: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    CHUNK: tl.constexpr,
    BJ: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """One program: `BJ` rows of the states that all segments of one sequence begin with, for one v head."""
    hv = tl.program_id(1)
    sequence = tl.program_id(2).to(tl.int64)
    length = tl.load(starts + sequence + 1).to(tl.int64) - tl.load(starts + sequence).to(tl.int64)
    count = tl.cdiv(length, CHUNK).to(tl.int32)
    per = tl.cdiv(count, SPLIT)
    line = tl.load(slots + sequence).to(tl.int64)
    if (count == 0) | (line < 0) | (line == null_slot) | (line >= pool_size):
        return
    row = tl.program_id(0) * BJ + tl.arange(0, BJ)
    column = tl.arange(0, K)
    inner = row[:, None] * K + column[None, :]
    S = tl.zeros([BJ, K], tl.float32)
    if tl.load(has_initial_state + sequence) != 0:
        S += tl.load(state + line * stride_state + hv * V * K + inner).to(tl.float32)
    tl.store(begins + (sequence * SPLIT * HV + hv) * V * K + inner, S)
    basis = tl.arange(0, K)[:, None] * K + column[None, :]
    for segment in range(SPLIT - 1):
        if (segment + 1) * per < count:
            source = summary + ((sequence * (SPLIT - 1) + segment) * HV + hv) * (V + K) * K
            S = tl.dot(S, tl.load(source + V * K + basis), tl.load(source + inner), input_precision="tf32x3")
            tl.store(begins + ((sequence * SPLIT + segment + 1) * HV + hv) * V * K + inner, S)
