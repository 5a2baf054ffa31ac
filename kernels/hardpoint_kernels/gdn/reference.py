"""What the GDN kernels compute, in torch, token by token: the living definition, slow and obvious.

Everything is computed in `dtype` (float64 in tests). T tokens, N requests, H heads of q and k, HV heads of v, K and V
head sizes, W = 4 taps. Recurrent state ``[pool, HV, V, K]``, convolution state ``[pool, 3 (+ speculative), channels]``;
both are written in place, by slot.
"""

from __future__ import annotations

import torch

from hardpoint_kernels.gdn.heads import WIDTH, Heads

L2_EPS = 1e-6
SOFTPLUS_THRESHOLD = 20.0


def is_padding(slot: int, pool_size: int, null_slot: int = -1) -> bool:
    """Negative, `null_slot` or past the pool: nothing is read or written, and the output rows are zero."""
    return slot < 0 or slot == null_slot or slot >= pool_size


def gating(
    a: torch.Tensor, b: torch.Tensor, A_log: torch.Tensor, dt_bias: torch.Tensor, *, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """``g = -exp(A_log) * softplus(a + dt_bias)`` (log decay) and ``beta = sigmoid(b)``, all ``[T, HV]``."""
    x = a.to(dtype) + dt_bias.to(dtype)
    softplus = torch.nn.functional.softplus(x, threshold=SOFTPLUS_THRESHOLD)
    return -A_log.to(dtype).exp() * softplus, b.to(dtype).sigmoid()


def l2norm(x: torch.Tensor) -> torch.Tensor:
    """``x / sqrt(sum(x^2) + 1e-6)`` over the last dimension."""
    return x / (x.square().sum(-1, keepdim=True) + L2_EPS).sqrt()


def gated_norm(
    x: torch.Tensor, z: torch.Tensor, weight: torch.Tensor, *, eps: float, activation: str = "silu"
) -> torch.Tensor:
    """RMS norm over the last dimension, times `weight`, times ``silu(z)`` or ``sigmoid(z)``."""
    gate = z.to(x.dtype).sigmoid()
    if activation == "silu":
        gate = gate * z.to(x.dtype)
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight.to(x.dtype) * gate


def conv_sequence(
    x: torch.Tensor, window: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, dtype: torch.dtype
) -> torch.Tensor:
    """Causal convolution and SiLU of one sequence: `x` ``[t, channels]`` after `window` ``[W - 1, channels]``."""
    rows = torch.cat([window.to(dtype), x.to(dtype)])
    taps = weight.to(dtype)
    out = torch.stack([(rows[t : t + WIDTH] * taps.T).sum(0) for t in range(x.shape[0])]) if x.shape[0] else x.to(dtype)
    if bias is not None:
        out = out + bias.to(dtype)
    return out * out.sigmoid()


def delta_rule_sequence(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor, beta: torch.Tensor, state: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The gated delta rule over one sequence, and the state after each token.

    Args:
        q, k: ``[t, H, K]``, q scaled; both normalised.
        v: ``[t, HV, V]``.
        g, beta: ``[t, HV]``, g the logarithm of the decay.
        state: ``[HV, V, K]``, not changed.
    """
    group = v.shape[1] // q.shape[1]
    outputs, states = [], []
    for t in range(q.shape[0]):
        query, key = q[t].repeat_interleave(group, 0), k[t].repeat_interleave(group, 0)
        state = state * g[t].exp()[:, None, None]
        seen = (state * key[:, None, :]).sum(-1)
        state = state + ((v[t] - seen) * beta[t][:, None])[:, :, None] * key[:, None, :]
        outputs.append((state * query[:, None, :]).sum(-1))
        states.append(state)
    return (torch.stack(outputs) if outputs else v), states


def decode(
    heads: Heads,
    mixed_qkv: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    A_log: torch.Tensor,
    dt_bias: torch.Tensor,
    conv_state: torch.Tensor,
    conv_weight: torch.Tensor,
    conv_bias: torch.Tensor | None,
    state: torch.Tensor,
    slots: torch.Tensor,
    *,
    query_start_loc: torch.Tensor | None = None,
    num_accepted_tokens: torch.Tensor | None = None,
    null_slot: int = -1,
    z: torch.Tensor | None = None,
    norm_weight: torch.Tensor | None = None,
    norm_eps: float = 1e-6,
    activation: str = "silu",
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """See `hardpoint_kernels.gdn.decode.GdnDecode`: convolution, gating, rule, and the gated norm if `z` is given."""
    tokens, pool = mixed_qkv.shape[0], state.shape[0]
    out = torch.zeros(tokens, heads.num_v_heads, heads.head_v_dim, dtype=dtype)
    slots = slots if slots.dim() == 2 else slots[:, None]
    starts = list(range(tokens + 1)) if query_start_loc is None else query_start_loc.tolist()
    accepted = [1] * slots.shape[0] if num_accepted_tokens is None else num_accepted_tokens.tolist()
    g, beta = gating(a, b, A_log, dt_bias, dtype=dtype)
    for n in range(slots.shape[0]):
        rows = slice(starts[n], starts[n + 1])
        count, back = starts[n + 1] - starts[n], max(accepted[n] - 1, 0)
        line, read = int(slots[n, 0]), int(slots[n, back])
        if count == 0 or is_padding(line, pool, null_slot) or is_padding(read, pool, null_slot):
            continue
        window = conv_state[line, back : back + WIDTH - 1].clone()
        mixed = conv_sequence(mixed_qkv[rows], window, conv_weight, conv_bias, dtype=dtype)
        conv_state[line, : WIDTH - 2] = window[1:]
        conv_state[line, WIDTH - 2 : WIDTH - 2 + count] = mixed_qkv[rows].to(conv_state.dtype)
        q, k, v = split(heads, mixed)
        found, states = delta_rule_sequence(
            l2norm(q) * heads.scale, l2norm(k), v, g[rows], beta[rows], state[read].to(dtype)
        )
        for t, after in enumerate(states):
            target = int(slots[n, min(t, slots.shape[1] - 1)])
            if not is_padding(target, pool, null_slot):
                state[target] = after.to(state.dtype)
        if z is not None and norm_weight is not None:
            found = gated_norm(found, z[rows], norm_weight, eps=norm_eps, activation=activation)
        out[rows] = found
    return out


def split(heads: Heads, mixed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``[t, channels]`` into q, k ``[t, H, K]`` and v ``[t, HV, V]``."""
    size = heads.num_k_heads * heads.head_k_dim
    q, k, v = torch.split(mixed, [size, size, heads.num_v_heads * heads.head_v_dim], dim=-1)
    tokens, k_heads = mixed.shape[0], heads.num_k_heads
    return (
        q.reshape(tokens, k_heads, heads.head_k_dim),
        k.reshape(tokens, k_heads, heads.head_k_dim),
        v.reshape(tokens, heads.num_v_heads, heads.head_v_dim),
    )


def prefill_prepare(
    heads: Heads,
    mixed_qkv: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    A_log: torch.Tensor,
    dt_bias: torch.Tensor,
    conv_state: torch.Tensor,
    conv_weight: torch.Tensor,
    conv_bias: torch.Tensor | None,
    slots: torch.Tensor,
    has_initial_state: torch.Tensor,
    query_start_loc: torch.Tensor,
    *,
    null_slot: int = -1,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `hardpoint_kernels.gdn.prefill_conv.prefill_prepare`: q, k, v, g, beta; q is normalised and not scaled."""
    tokens = mixed_qkv.shape[0]
    mixed = torch.zeros(tokens, heads.channels, dtype=dtype)
    starts = query_start_loc.tolist()
    written = torch.zeros(tokens, dtype=torch.bool)
    for n, slot in enumerate(slots.tolist()):
        rows = slice(starts[n], starts[n + 1])
        count = starts[n + 1] - starts[n]
        if count == 0 or is_padding(slot, conv_state.shape[0], null_slot):
            continue
        window = conv_state[slot, : WIDTH - 1].clone()
        if not bool(has_initial_state[n]):
            window.zero_()
        mixed[rows] = conv_sequence(mixed_qkv[rows], window, conv_weight, conv_bias, dtype=dtype)
        conv_state[slot, : WIDTH - 1] = torch.cat([window, mixed_qkv[rows].to(window.dtype)])[-(WIDTH - 1) :]
        written[rows] = True
    q, k, v = split(heads, mixed)
    g, beta = gating(a, b, A_log, dt_bias, dtype=dtype)
    keep = written[:, None]
    zero = torch.zeros((), dtype=dtype)
    return l2norm(q), l2norm(k), v, torch.where(keep, g, zero), torch.where(keep, beta, zero)


def chunk_rule(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    state: torch.Tensor,
    slots: torch.Tensor,
    has_initial_state: torch.Tensor,
    query_start_loc: torch.Tensor,
    *,
    scale: float,
    null_slot: int = -1,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """See `hardpoint_kernels.gdn.chunk.chunk_gated_delta_rule`: ``[T, HV, V]``; the state is left in its slot."""
    out = torch.zeros(v.shape, dtype=dtype)
    starts = query_start_loc.tolist()
    for n, slot in enumerate(slots.tolist()):
        rows = slice(starts[n], starts[n + 1])
        if starts[n + 1] == starts[n] or is_padding(slot, state.shape[0], null_slot):
            continue
        before = state[slot].to(dtype)
        if not bool(has_initial_state[n]):
            before = torch.zeros_like(before)
        given = (
            q[rows].to(dtype) * scale,
            k[rows].to(dtype),
            v[rows].to(dtype),
            g[rows].to(dtype),
            beta[rows].to(dtype),
        )
        out[rows], states = delta_rule_sequence(*given, before)
        state[slot] = states[-1].to(state.dtype)
    return out
