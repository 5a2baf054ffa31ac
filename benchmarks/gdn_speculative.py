"""A decode step with several tokens a request: ours beside vLLM's convolution and rule (its Triton path).

vLLM's default on CUDA is a C++ kernel, which is in its wheel and not in `peers.py`; where that wheel is installed its
time is a third row, ``vllm-cuda``: its convolution and then that kernel, which has the norm in it. Written and not run
on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from gdn_batches import OPS, Calls, DecodeBatch, Weights, peer

from hardpoint_kernels.gdn.decode import GdnDecode
from hardpoint_kernels.gdn.heads import Heads


@dataclass(frozen=True)
class SpeculativeBatch:
    """`tokens` tokens for each request, one to all of the last step's accepted in turn; every token leaves a state."""

    heads: Heads
    weights: Weights
    requests: int
    tokens: int
    state: torch.Tensor
    conv_state: torch.Tensor
    starts: torch.Tensor
    sets: list[dict[str, torch.Tensor]]

    @classmethod
    def make(cls, heads: Heads, requests: int, tokens: int) -> SpeculativeBatch:
        plain = DecodeBatch.make(heads, requests * tokens)
        lines = plain.state.shape[0]
        conv = torch.randn(lines, 3 + tokens - 1, heads.channels, device="cuda").bfloat16()
        starts = torch.arange(requests + 1, dtype=torch.int32, device="cuda") * tokens
        accepted = torch.arange(requests, device="cuda").to(torch.int32) % tokens + 1
        sets = [given | {"slots": given["slots"].view(requests, tokens), "accepted": accepted} for given in plain.sets]
        return cls(heads, plain.weights, requests, tokens, plain.state, conv, starts, sets)

    def floor_bytes(self, norm: bool) -> int:
        """One state read and `tokens` written for each request, windows and tokens once."""
        heads, rows = self.heads, self.heads.num_v_heads * self.heads.head_v_dim
        states = self.requests * (1 + self.tokens) * rows * heads.head_k_dim * self.state.element_size()
        windows = self.requests * (3 + 2 + self.tokens) * heads.channels * 2 + heads.channels * 4 * 2
        each = heads.channels + rows + (rows if norm else 0) + 2 * heads.num_v_heads
        return states + windows + self.requests * self.tokens * each * 2

    def ours(self, norm: bool) -> Calls:
        named = self.weights.named() | {"norm_weight": self.weights.norm_weight if norm else None}
        step = GdnDecode(self.heads, **named, null_slot=0, max_requests=4096)

        def one(s: dict[str, torch.Tensor]) -> Callable[[], object]:
            return lambda: step(
                s["mixed_qkv"], s["a"], s["b"], self.conv_state, self.state, s["slots"], s["out"],
                z=s["z"] if norm else None, query_start_loc=self.starts, num_accepted_tokens=s["accepted"],
            )  # fmt: skip

        return [one(s) for s in self.sets]

    def _mixed(self, conv: object, s: dict[str, torch.Tensor]) -> torch.Tensor:
        found: torch.Tensor = conv.causal_conv1d_update(  # type: ignore[attr-defined]
            s["mixed_qkv"], self.conv_state.transpose(1, 2), self.weights.conv_weight, None, "silu",
            conv_state_indices=s["slots"][:, 0], num_accepted_tokens=s["accepted"], query_start_loc=self.starts,
            max_query_len=self.tokens,
        )  # fmt: skip
        return found

    def vllm(self, norm: bool) -> Calls | None:
        """Its convolution, the split, its rule, and the gated norm if asked for."""
        conv = peer("vllm.model_executor.layers.mamba.ops.causal_conv1d")
        rule, layernorm = peer(f"{OPS}.fused_sigmoid_gating"), peer(f"{OPS}.layernorm_guard")
        if conv is None or rule is None or layernorm is None:
            return None
        heads, w = self.heads, self.weights
        size, hv = heads.num_k_heads * heads.head_k_dim, heads.num_v_heads

        def one(s: dict[str, torch.Tensor]) -> Callable[[], object]:
            def call() -> object:
                q, k, v = torch.split(self._mixed(conv, s), [size, size, hv * heads.head_v_dim], dim=-1)
                found, _ = rule.fused_sigmoid_gating_delta_rule_update(
                    A_log=w.A_log, a=s["a"], b=s["b"], dt_bias=w.dt_bias,
                    q=q.unflatten(1, (-1, heads.head_k_dim)).unsqueeze(0).contiguous(),
                    k=k.unflatten(1, (-1, heads.head_k_dim)).unsqueeze(0).contiguous(),
                    v=v.unflatten(1, (-1, heads.head_v_dim)).unsqueeze(0).contiguous(),
                    initial_state=self.state, inplace_final_state=True, cu_seqlens=self.starts,
                    ssm_state_indices=s["slots"], num_accepted_tokens=s["accepted"], use_qk_l2norm_in_kernel=True,
                )  # fmt: skip
                if norm:
                    layernorm.rmsnorm_fn(
                        found.flatten(0, 2), w.norm_weight, None, z=s["z"].flatten(0, 1), eps=1e-6,
                        norm_before_gate=True, activation="silu",
                    )  # fmt: skip
                return found

            return call

        return [one(s) for s in self.sets]

    def vllm_cuda(self) -> Calls | None:
        """Its convolution and its C++ kernel, norm included; None without vLLM's compiled extension."""
        conv = peer("vllm.model_executor.layers.mamba.ops.causal_conv1d")
        ops = peer("vllm._custom_ops")
        if conv is None or ops is None or not hasattr(torch.ops._C, "fused_gdn_decode_post_conv_mtp"):
            return None
        w = self.weights

        def one(s: dict[str, torch.Tensor]) -> Callable[[], object]:
            return lambda: ops.fused_gdn_decode_post_conv_mtp(
                self._mixed(conv, s), s["a"], s["b"], w.A_log, w.dt_bias, s["slots"], self.starts, s["accepted"],
                self.state, s["z"].contiguous(), w.norm_weight, out=s["out"], norm_eps=1e-6,
            )  # fmt: skip

        return [one(s) for s in self.sets]
