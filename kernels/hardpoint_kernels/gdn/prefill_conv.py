"""`GdnPrepare`: what comes before the chunk rule in a prefill, in one launch: convolution, split, l2 norm, gating."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from hardpoint_kernels import checks
from hardpoint_kernels.errors import KernelRefused
from hardpoint_kernels.gdn._prefill_kernel import prefill_kernel
from hardpoint_kernels.gdn.configs import Config, measured
from hardpoint_kernels.gdn.heads import WIDTH, Heads, check_width
from hardpoint_kernels.gdn.plan import CHUNK, ChunkPlan
from hardpoint_kernels.launch import PLAIN, Binding, Launcher

NAME = "GDN prefill"
FLOATS = (torch.bfloat16, torch.float16, torch.float32)


class Prepared(NamedTuple):
    """For the chunk rule: q, k ``[T, H, K]`` normalised and not scaled, v ``[T, HV, V]``, g, beta ``[T, HV]`` fp32."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    g: torch.Tensor
    beta: torch.Tensor


class GdnPrepare:
    """Causal convolution with SiLU over sequences of any length, with their windows in a pool, and what follows it.

    A sequence that has no initial state begins with a window of zeros. Its slot then holds its last three inputs (and,
    if it is shorter, the newest of the old window). Rows of padding (see `GdnDecode`) and rows past the last token are
    zero in all five outputs, whatever their inputs hold. The convolution is not rounded before the norm.
    """

    def __init__(
        self,
        heads: Heads,
        *,
        conv_weight: torch.Tensor,
        conv_bias: torch.Tensor | None,
        A_log: torch.Tensor,
        dt_bias: torch.Tensor,
        null_slot: int = -1,
        launcher: Launcher = PLAIN,
        config: Config | None = None,
    ) -> None:
        """Bind the weights of a layer; see `GdnDecode`. KernelRefused also for K != V."""
        heads.check(NAME)
        check_width(NAME, conv_weight)
        if heads.head_k_dim != heads.head_v_dim:
            raise KernelRefused(
                f"{NAME} requires K = V, got K={heads.head_k_dim}, V={heads.head_v_dim}; nothing was launched."
            )
        checks.expect_shape(NAME, "conv_weight", conv_weight, (heads.channels, WIDTH), "[2 H K + HV V, 4]")
        for name, tensor in (("A_log", A_log), ("dt_bias", dt_bias)):
            checks.expect_shape(NAME, name, tensor, (heads.num_v_heads,), "[HV]")
        if conv_bias is not None:
            checks.expect_shape(NAME, "conv_bias", conv_bias, (heads.channels,), "[2 H K + HV V]")
        self.heads = heads
        self._weights = (conv_weight, conv_bias, A_log, dt_bias)
        self._null_slot = null_slot
        self._config = config
        self._binding = Binding(prefill_kernel, launcher)

    def __call__(
        self,
        mixed_qkv: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        conv_state: torch.Tensor,
        slots: torch.Tensor,
        has_initial_state: torch.Tensor,
        plan: ChunkPlan,
    ) -> Prepared:
        """Prepare one batch.

        Args:
            mixed_qkv: ``[T, channels]``; a, b ``[T, HV]``.
            conv_state: ``[pool, >= 3, channels]``, written in place.
            slots: ``[N]``.
            has_initial_state: ``[N]`` bool.
            plan: of the same T and N.

        Raises:
            KernelRefused: a sentence; nothing was launched.
        """
        heads, tokens = self.heads, mixed_qkv.shape[0]
        self._check(mixed_qkv, a, b, conv_state, slots, has_initial_state, plan)
        conv_weight, conv_bias, A_log, dt_bias = self._weights
        dtype, device = mixed_qkv.dtype, mixed_qkv.device
        config = self._config or measured("prepare", device, channels=heads.channels, tokens=tokens) or DEFAULT
        made = Prepared(
            torch.empty(tokens, heads.num_k_heads, heads.head_k_dim, dtype=dtype, device=device),
            torch.empty(tokens, heads.num_k_heads, heads.head_k_dim, dtype=dtype, device=device),
            torch.empty(tokens, heads.num_v_heads, heads.head_v_dim, dtype=dtype, device=device),
            torch.empty(tokens, heads.num_v_heads, dtype=torch.float32, device=device),
            torch.empty(tokens, heads.num_v_heads, dtype=torch.float32, device=device),
        )
        if tokens == 0:
            return made
        constants: dict[str, Any] = {
            "null_slot": self._null_slot, "stride_x": mixed_qkv.stride(0), "stride_a": a.stride(0),
            "stride_b": b.stride(0), "stride_conv": conv_state.stride(0), "stride_conv_tap": conv_state.stride(1),
            "stride_conv_dim": conv_state.stride(2), "stride_weight": conv_weight.stride(0),
            "stride_weight_tap": conv_weight.stride(1), "H": heads.num_k_heads, "HV": heads.num_v_heads,
            "D": heads.head_k_dim, "HV_PADDED": 1 << (heads.num_v_heads - 1).bit_length(),
            "HAS_BIAS": conv_bias is not None, "CHUNK": CHUNK, **config.constants(),
        }  # fmt: skip
        grid = (2 * heads.num_k_heads + heads.num_v_heads + 1, plan.chunks)
        args = (
            mixed_qkv, conv_weight, conv_bias, conv_state, a, b, A_log, dt_bias, *made, slots, has_initial_state,
            plan.starts, plan.of_sequence, conv_state.shape[0], plan.sequences,
        )  # fmt: skip
        self._binding(tuple(constants.values()), grid, args, constants)
        return made

    def _check(
        self,
        mixed_qkv: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        conv_state: torch.Tensor,
        slots: torch.Tensor,
        has_initial_state: torch.Tensor,
        plan: ChunkPlan,
    ) -> None:
        heads, tokens = self.heads, mixed_qkv.shape[0]
        checks.expect_shape(NAME, "mixed_qkv", mixed_qkv, (plan.tokens, heads.channels), "[tokens, 2 H K + HV V]")
        for name, tensor in (("a", a), ("b", b)):
            checks.expect_shape(NAME, name, tensor, (tokens, heads.num_v_heads), "[tokens, HV]")
        if conv_state.dim() != 3 or conv_state.shape[1] < WIDTH - 1 or conv_state.shape[2] != heads.channels:
            raise KernelRefused(
                f"{NAME}: conv_state must be [pool, at least 3, {heads.channels}], got {list(conv_state.shape)}; "
                "nothing was launched."
            )
        for name, tensor in (("slots", slots), ("has_initial_state", has_initial_state)):
            checks.expect_shape(NAME, name, tensor, (plan.sequences,), "[sequences]")
            checks.expect_dense_rows(NAME, name, tensor)
        checks.expect_dtype(NAME, "slots", slots, (torch.int32, torch.int64))
        checks.expect_dtype(NAME, "has_initial_state", has_initial_state, (torch.bool,))
        for name, tensor in (("mixed_qkv", mixed_qkv), ("a", a), ("b", b)):
            checks.expect_dense_rows(NAME, name, tensor)
            checks.expect_dtype(NAME, name, tensor, FLOATS)
        checks.expect_dtype(NAME, "conv_state", conv_state, (mixed_qkv.dtype,))
        tensors = {"mixed_qkv": mixed_qkv, "a": a, "b": b, "conv_state": conv_state, "slots": slots}
        weights = {"has_initial_state": has_initial_state, "the plan": plan.starts, "conv_weight": self._weights[0]}
        checks.expect_one_device(NAME, {**tensors, **weights})


DEFAULT = Config({"BT": 16}, num_warps=4)
