"""`GdnDecode`: a decode step of a GDN layer after its projections, in one launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hardpoint_kernels import checks
from hardpoint_kernels.errors import KernelRefused
from hardpoint_kernels.gdn._decode_kernel import decode_kernel
from hardpoint_kernels.gdn.configs import Config, measured
from hardpoint_kernels.gdn.heads import WIDTH, Heads, check_width
from hardpoint_kernels.launch import PLAIN, Binding, Launcher

NAME = "GDN decode"
HALVES = (torch.bfloat16, torch.float16, torch.float32)
STATES = (torch.float32, torch.bfloat16, torch.float16)
INDICES = (torch.int32, torch.int64)


class GdnDecode:
    """Convolution update, gating, l2 norm of q and k, delta rule, and the gated RMS norm if asked for: one launch.

    For each request, with its W - 1 = 3 newest inputs in ``conv_state`` and its matrix in ``state``::

        q, k, v = silu(convolution of the window and mixed_qkv)
        q, k    = q / sqrt(sum q^2 + 1e-6) * K^-0.5,  k / sqrt(sum k^2 + 1e-6)
        S       = exp(-exp(A_log) softplus(a + dt_bias)) * S
        S       = S + sigmoid(b) (v - S k) k^T
        out     = S q                               # and rms_norm(out) * norm_weight * silu(z) with the norm

    Both states are updated in place, in the slot of the request. No program overwrites a window that another still
    reads: q and k of one head are read by several programs, which count themselves, and the last one writes.

    Padding: a slot that is negative, `null_slot`, or not below the pool's size. Nothing is read or written for it, and
    its output rows are zero. Rows past the last token are zero. Slots that two requests share are a race
    (`checks.check_slots` finds them; ``check=True`` calls it, and waits for the device).

    Arithmetic is float32 throughout; nothing is rounded between the convolution and the output.
    """

    def __init__(
        self,
        heads: Heads,
        *,
        conv_weight: torch.Tensor,
        conv_bias: torch.Tensor | None,
        A_log: torch.Tensor,
        dt_bias: torch.Tensor,
        norm_weight: torch.Tensor | None = None,
        norm_eps: float = 1e-6,
        activation: str = "silu",
        null_slot: int = -1,
        max_requests: int = 1024,
        launcher: Launcher = PLAIN,
        config: Config | None = None,
        program_order: int = 0,
    ) -> None:
        """Bind the weights of a layer.

        Args:
            heads: sizes of this rank's shard.
            conv_weight: ``[channels, 4]``; conv_bias ``[channels]`` or None.
            A_log: ``[HV]``, float32; dt_bias ``[HV]``.
            norm_weight: ``[V]``; None leaves the norm out.
            activation: of the gate, ``silu`` or ``sigmoid``.
            null_slot: a slot that means padding beside negative ones; vLLM's is 0.
            max_requests: what the counters are made for.
            launcher: what binds the kernel.
            config: block sizes; None takes the measured ones of the device.
            program_order: for tests, runs the programs in another order.

        Raises:
            KernelRefused: sizes, shapes, dtypes or devices that the kernel cannot take.
        """
        heads.check(NAME)
        check_width(NAME, conv_weight)
        checks.expect_shape(NAME, "conv_weight", conv_weight, (heads.channels, WIDTH), "[2 H K + HV V, 4]")
        for name, tensor in (("A_log", A_log), ("dt_bias", dt_bias)):
            checks.expect_shape(NAME, name, tensor, (heads.num_v_heads,), "[HV]")
        if conv_bias is not None:
            checks.expect_shape(NAME, "conv_bias", conv_bias, (heads.channels,), "[2 H K + HV V]")
        if norm_weight is not None:
            checks.expect_shape(NAME, "norm_weight", norm_weight, (heads.head_v_dim,), "[V]")
        if activation not in ("silu", "sigmoid"):
            raise KernelRefused(f"{NAME}: activation must be 'silu' or 'sigmoid', got {activation!r}.")
        weights = {"conv_weight": conv_weight, "conv_bias": conv_bias, "A_log": A_log, "dt_bias": dt_bias}
        checks.expect_one_device(NAME, {**weights, "norm_weight": norm_weight})
        self.heads = heads
        self._weights = (conv_weight, conv_bias, A_log, dt_bias, norm_weight)
        self._norm = (norm_weight is not None, activation == "silu", norm_eps)
        self._null_slot = null_slot
        self._max_requests = max_requests
        self._config = config
        self._order = program_order
        self._arrivals = torch.zeros(max_requests * heads.num_k_heads, dtype=torch.int32, device=A_log.device)
        self._binding = Binding(decode_kernel, launcher)
        self._prepared: dict[Any, tuple[Callable[..., None], tuple[int, ...]]] = {}
        self._keys: dict[Any, int] = {}

    def __call__(
        self,
        mixed_qkv: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        conv_state: torch.Tensor,
        state: torch.Tensor,
        slots: torch.Tensor,
        out: torch.Tensor,
        *,
        z: torch.Tensor | None = None,
        query_start_loc: torch.Tensor | None = None,
        num_accepted_tokens: torch.Tensor | None = None,
        check: bool = False,
    ) -> torch.Tensor:
        """Run one step and return `out`.

        Args:
            mixed_qkv: ``[T, channels]``, q then k then v; T is the number of requests without `query_start_loc`.
            a, b: ``[T, HV]``.
            conv_state: ``[pool, 3 (+ speculative tokens), channels]``, of mixed_qkv's dtype, any strides (vLLM's other
                layout is a transposed view).
            state: ``[pool, HV, V, K]``, float32 or bfloat16, the last three dimensions dense.
            slots: ``[N]``, or ``[N, 1 + speculative]``: token t leaves its state in ``slots[n, t]``.
            out: ``[T, HV, V]``, every row is written.
            z: ``[T, HV, V]``, with the norm.
            query_start_loc: ``[N + 1]``, where each request's tokens begin (speculative decoding).
            num_accepted_tokens: ``[N]``, how many of the last step's tokens stand; the state is read from
                ``slots[n, accepted - 1]`` and the window from row ``accepted - 1``.
            check: look at the slots on the host first.

        Raises:
            KernelRefused: a sentence; nothing was launched.
        """
        signature = (
            mixed_qkv.shape, mixed_qkv.stride(), a.shape, a.stride(), b.stride(), conv_state.shape, conv_state.stride(),
            state.shape, state.stride(), slots.shape, slots.stride(), out.shape, out.stride(), z is None or z.stride(),
            query_start_loc is None, mixed_qkv.dtype, conv_state.dtype, state.dtype, slots.dtype,
        )  # fmt: skip
        prepared = self._prepared.get(signature)
        if check:
            checks.check_slots(NAME, slots, state.shape[0], self._null_slot)
        conv_weight, conv_bias, A_log, dt_bias, norm_weight = self._weights
        args = (
            mixed_qkv, conv_state, conv_weight, conv_bias, a, b, A_log, dt_bias, state, out, z, norm_weight, slots,
            num_accepted_tokens, query_start_loc, self._arrivals, state.shape[0], slots.shape[0], mixed_qkv.shape[0],
        )  # fmt: skip
        if prepared is None:
            given = (mixed_qkv, a, b, conv_state, state, slots, out, z, query_start_loc, num_accepted_tokens)
            key, grid, constants = self._prepare(*given)
            if grid[0] == 0:
                return out.zero_()
            prepared = self._prepared[signature] = (self._binding.bound(key, grid, args, constants), grid)
        bound, grid = prepared
        bound(*args, grid=grid)
        return out

    def _prepare(
        self,
        mixed_qkv: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        conv_state: torch.Tensor,
        state: torch.Tensor,
        slots: torch.Tensor,
        out: torch.Tensor,
        z: torch.Tensor | None,
        query_start_loc: torch.Tensor | None,
        num_accepted_tokens: torch.Tensor | None,
    ) -> tuple[int, tuple[int, ...], dict[str, Any]]:
        """Check everything about shapes, dtypes and strides, and choose block sizes."""
        heads, tokens, requests = self.heads, mixed_qkv.shape[0], slots.shape[0]
        speculative = query_start_loc is not None
        rows = (tokens, heads.num_v_heads, heads.head_v_dim)
        extra = (slots.shape[1] - 1) if slots.dim() == 2 else 0
        checks.expect_shape(NAME, "mixed_qkv", mixed_qkv, (tokens, heads.channels), "[tokens, 2 H K + HV V]")
        checks.expect_shape(NAME, "a", a, (tokens, heads.num_v_heads), "[tokens, HV]")
        checks.expect_shape(NAME, "b", b, (tokens, heads.num_v_heads), "[tokens, HV]")
        checks.expect_shape(NAME, "out", out, rows, "[tokens, HV, V]")
        sizes = (None, heads.num_v_heads, heads.head_v_dim, heads.head_k_dim)
        checks.expect_shape(NAME, "state", state, sizes, "[pool, HV, V, K]")
        lines = (state.shape[0], None, heads.channels)
        checks.expect_shape(NAME, "conv_state", conv_state, lines, "[pool, taps, 2 H K + HV V]")
        if conv_state.shape[1] < WIDTH - 1 + extra:
            raise KernelRefused(
                f"{NAME}: conv_state must keep {WIDTH - 1 + extra} rows per slot (3, and the speculative tokens), got "
                f"{conv_state.shape[1]}; nothing was launched."
            )
        if self._norm[0] != (z is not None):
            raise KernelRefused(f"{NAME}: z and norm_weight go together, got only one of them; nothing was launched.")
        if z is not None:
            checks.expect_shape(NAME, "z", z, rows, "[tokens, HV, V]")
            checks.expect_dense_rows(NAME, "z", z, 2)
        if not speculative and (requests != tokens or slots.dim() != 1):
            raise KernelRefused(
                f"{NAME}: without query_start_loc every request has one token and slots is [tokens] = [{tokens}], got "
                f"{list(slots.shape)}; nothing was launched."
            )
        if query_start_loc is not None:
            checks.expect_shape(NAME, "query_start_loc", query_start_loc, (requests + 1,), "[requests + 1]")
            checks.expect_dtype(NAME, "query_start_loc", query_start_loc, INDICES)
            if num_accepted_tokens is None or slots.dim() != 2:
                raise KernelRefused(
                    f"{NAME}: query_start_loc needs num_accepted_tokens and slots [requests, 1 + speculative], "
                    f"got num_accepted_tokens {'None' if num_accepted_tokens is None else 'given'} and slots "
                    f"{list(slots.shape)}; nothing was launched."
                )
            checks.expect_shape(NAME, "num_accepted_tokens", num_accepted_tokens, (requests,), "[requests]")
            checks.expect_dtype(NAME, "num_accepted_tokens", num_accepted_tokens, INDICES)
        if requests > self._max_requests:
            raise KernelRefused(
                f"{NAME}: made for at most {self._max_requests} requests, got {requests}: raise max_requests; nothing "
                "was launched."
            )
        for name, tensor in (("mixed_qkv", mixed_qkv), ("a", a), ("b", b)):
            checks.expect_dense_rows(NAME, name, tensor)
            checks.expect_dtype(NAME, name, tensor, HALVES)
        checks.expect_dtype(NAME, "conv_state", conv_state, (mixed_qkv.dtype,))
        checks.expect_dtype(NAME, "state", state, STATES)
        checks.expect_dtype(NAME, "slots", slots, INDICES)
        checks.expect_dense_rows(NAME, "slots", slots)
        checks.expect_dense_rows(NAME, "state", state, 3)
        checks.expect_dense_rows(NAME, "out", out, 2)
        tensors = {"mixed_qkv": mixed_qkv, "a": a, "b": b, "conv_state": conv_state, "state": state, "slots": slots}
        checks.expect_one_device(NAME, {**tensors, "out": out, "z": z, "A_log": self._weights[2]})

        config = self._config or choose(
            heads, requests, state.dtype, norm=self._norm[0], speculative=speculative, device=state.device
        )
        if not fits(heads, config, norm=self._norm[0], speculative=speculative):
            raise KernelRefused(
                f"{NAME}: BR={config.blocks['BR']} rows per program do not fit HV={heads.num_v_heads}, H="
                f"{heads.num_k_heads}, V={heads.head_v_dim}{' with the norm' if self._norm[0] else ''}: it must divide "
                "HV / H * V, and be V or a multiple of it with the norm; parts (SR) are for one token per request "
                "and at most V rows; nothing was launched."
            )
        weight = self._weights[0]
        block = config.blocks["BR"]
        constants = {
            "scale": heads.scale, "eps": self._norm[2], "null_slot": self._null_slot,
            "stride_x": mixed_qkv.stride(0), "stride_a": a.stride(0), "stride_b": b.stride(0),
            "stride_z": 0 if z is None else z.stride(0), "stride_out": out.stride(0),
            "stride_conv": conv_state.stride(0), "stride_conv_tap": conv_state.stride(1),
            "stride_conv_dim": conv_state.stride(2), "stride_state": state.stride(0), "stride_slots": slots.stride(0),
            "stride_weight": weight.stride(0), "stride_weight_tap": weight.stride(1), "H": heads.num_k_heads,
            "HV": heads.num_v_heads, "K": heads.head_k_dim, "V": heads.head_v_dim,
            "HAS_BIAS": self._weights[1] is not None, "NORM": self._norm[0], "GATE_SILU": self._norm[1],
            "SPEC": speculative, "ORDER": self._order, "SR": block, "STAGES": config.num_stages, "WINDOW": 0,
            **config.constants(),
        }  # fmt: skip
        grid = (requests * heads.num_v_heads * heads.head_v_dim // config.blocks["BR"],)
        key = self._keys.setdefault(tuple(constants.values()), len(self._keys))
        return key, grid, constants


def fits(heads: Heads, config: Config, *, norm: bool, speculative: bool = False) -> bool:
    """A program's rows lie within the v heads of one k head, and cover whole heads if there is a norm.

    Rows that pass through in parts (SR below BR) are of one head, and only where each request has one token.
    """
    block, size = config.blocks["BR"], heads.head_v_dim
    if config.blocks.get("SR", block) != block and (speculative or block > size):
        return False
    within = heads.num_v_heads // heads.num_k_heads * size % block == 0
    return within and (block % size == 0 or (not norm and size % block == 0))


def choose(
    heads: Heads, requests: int, state_dtype: torch.dtype, *, norm: bool, speculative: bool, device: torch.device
) -> Config:
    """The measured block sizes for this device and shape, or a default that fits every shape."""
    rows = heads.num_v_heads * heads.head_v_dim
    shape = {"rows": rows, "norm": int(norm), "state_bytes": state_dtype.itemsize, "requests": requests}
    found = measured("decode", device, **shape)
    if found is not None and fits(heads, found, norm=norm, speculative=speculative):
        return found
    block = heads.head_v_dim if norm else min(32, heads.head_v_dim)
    return Config({"BR": block, "KI": min(heads.head_k_dim, 32)}, num_warps=max(1, block * heads.head_k_dim // 2048))
