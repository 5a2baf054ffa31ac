"""Inputs of the GDN benchmarks, and what each provider does with them, as calls that rotate over the inputs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from hardpoint_kernels.gdn.chunk import ChunkRule
from hardpoint_kernels.gdn.configs import Config
from hardpoint_kernels.gdn.decode import GdnDecode
from hardpoint_kernels.gdn.heads import Heads
from hardpoint_kernels.gdn.plan import plan_chunks
from hardpoint_kernels.gdn.prefill_conv import GdnPrepare

Calls = list[Callable[[], object]]
OPS = "vllm.third_party.flash_linear_attention.ops"


def peer(module: str) -> Any | None:
    """A peer's module, None where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


class Weights:
    """Of one layer, on the current GPU, as vLLM keeps them."""

    def __init__(self, heads: Heads) -> None:
        torch.manual_seed(0)
        hv = heads.num_v_heads
        self.conv_weight = (torch.randn(heads.channels, 4, device="cuda") * 1.2).bfloat16()
        self.A_log = torch.rand(hv, device="cuda") * 2 - 1
        self.dt_bias = torch.randn(hv, device="cuda").bfloat16()
        self.norm_weight = torch.ones(heads.head_v_dim, device="cuda").bfloat16()

    def named(self) -> dict[str, Any]:
        return {"conv_weight": self.conv_weight, "conv_bias": None, "A_log": self.A_log, "dt_bias": self.dt_bias}


@dataclass(frozen=True)
class DecodeBatch:
    """Enough sets of inputs, each with slots of its own, that none of them is in the cache when its turn comes."""

    heads: Heads
    weights: Weights
    requests: int
    state: torch.Tensor
    conv_state: torch.Tensor
    sets: list[dict[str, torch.Tensor]]

    @classmethod
    def make(cls, heads: Heads, requests: int, state_dtype: torch.dtype = torch.float32) -> DecodeBatch:
        per_request = heads.num_v_heads * heads.head_v_dim * heads.head_k_dim * state_dtype.itemsize
        count = max(2, min(96, -(-256 * 2**20 // (requests * per_request))))
        pool = count * requests + 1
        generator = torch.Generator(device="cuda").manual_seed(1)
        state = torch.empty(pool, heads.num_v_heads, heads.head_v_dim, heads.head_k_dim, device="cuda")
        state = state.normal_(generator=generator).mul_(0.3).to(state_dtype)
        conv = torch.randn(pool, 3, heads.channels, device="cuda").bfloat16()
        order = torch.randperm(pool - 1, device="cuda").to(torch.int32) + 1
        sets = []
        for number in range(count):
            qkvz = torch.randn(requests, heads.channels + heads.num_v_heads * heads.head_v_dim, device="cuda")
            qkvz = qkvz.bfloat16()
            sets.append({
                "mixed_qkv": qkvz[:, : heads.channels],
                "z": qkvz[:, heads.channels :].unflatten(1, (heads.num_v_heads, heads.head_v_dim)),
                "a": torch.randn(requests, heads.num_v_heads, device="cuda").bfloat16(),
                "b": torch.randn(requests, heads.num_v_heads, device="cuda").bfloat16(),
                "slots": order[number * requests : (number + 1) * requests].contiguous(),
                "out": torch.empty(requests, heads.num_v_heads, heads.head_v_dim, device="cuda", dtype=torch.bfloat16),
            })  # fmt: skip
        return cls(heads, Weights(heads), requests, state, conv, sets)

    def floor_bytes(self, norm: bool) -> int:
        """Every input read once and every output written once."""
        heads, n = self.heads, self.requests
        rows = heads.num_v_heads * heads.head_v_dim
        states = 2 * n * rows * heads.head_k_dim * self.state.element_size()
        windows = 2 * n * 3 * heads.channels * 2 + heads.channels * 4 * 2
        tokens = n * (heads.channels + rows + (rows if norm else 0) + 2 * heads.num_v_heads) * 2
        return states + windows + tokens

    def ours(self, norm: bool, config: Config | None = None, launcher: Any = None, order: int = 0) -> Calls:
        named = self.weights.named() | {"norm_weight": self.weights.norm_weight if norm else None}
        extra = {} if launcher is None else {"launcher": launcher}
        step = GdnDecode(
            self.heads, **named, null_slot=0, config=config, program_order=order, max_requests=4096, **extra
        )

        def one(given: dict[str, torch.Tensor]) -> Callable[[], object]:
            args = (
                given["mixed_qkv"],
                given["a"],
                given["b"],
                self.conv_state,
                self.state,
                given["slots"],
                given["out"],
            )
            z = given["z"] if norm else None
            return lambda: step(*args, z=z)

        return [one(given) for given in self.sets]

    def vllm(self, norm: bool) -> Calls | None:
        """Its two kernels, and the gated norm as the third."""
        conv = peer("vllm.model_executor.layers.mamba.ops.causal_conv1d")
        rule, layernorm = peer(f"{OPS}.fused_recurrent"), peer(f"{OPS}.layernorm_guard")
        if conv is None or rule is None or layernorm is None:
            return None
        w, windows = self.weights, self.conv_state.transpose(1, 2)

        def one(given: dict[str, torch.Tensor]) -> Callable[[], object]:
            out = given["out"].unsqueeze(1)

            def call() -> None:
                mixed = conv.causal_conv1d_update(
                    given["mixed_qkv"], windows, w.conv_weight, None, "silu", conv_state_indices=given["slots"]
                )
                rule.fused_recurrent_gated_delta_rule_packed_decode(
                    mixed, given["a"], given["b"], w.A_log, w.dt_bias, self.heads.scale, self.state, out,
                    given["slots"], True,
                )  # fmt: skip
                if norm:
                    layernorm.rmsnorm_fn(
                        given["out"].flatten(0, 1), w.norm_weight, None, z=given["z"].flatten(0, 1), eps=1e-6,
                        norm_before_gate=True, activation="silu",
                    )  # fmt: skip

            return call

        return [one(given) for given in self.sets]


@dataclass(frozen=True)
class PrefillBatch:
    """Sequences of equal length; each set has inputs of its own and slots of its own."""

    heads: Heads
    weights: Weights
    lengths: tuple[int, ...]
    state: torch.Tensor
    conv_state: torch.Tensor
    starts: torch.Tensor
    sets: list[dict[str, torch.Tensor]]

    @classmethod
    def make(cls, heads: Heads, lengths: tuple[int, ...], count: int = 2) -> PrefillBatch:
        torch.manual_seed(2)
        total, n = sum(lengths), len(lengths)
        pool = count * n + 1
        state = torch.randn(pool, heads.num_v_heads, heads.head_v_dim, heads.head_k_dim, device="cuda") * 0.3
        conv = torch.randn(pool, 3, heads.channels, device="cuda").bfloat16()
        starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32, device="cuda")
        sets = []
        for number in range(count):
            rows = heads.num_v_heads
            qk = [torch.randn(total, heads.num_k_heads, heads.head_k_dim, device="cuda") for _ in range(2)]
            q, k = (torch.nn.functional.normalize(t, dim=-1).bfloat16() for t in qk)
            sets.append({
                "mixed_qkv": torch.randn(total, heads.channels, device="cuda").bfloat16(),
                "a": torch.randn(total, rows, device="cuda").bfloat16(),
                "b": torch.randn(total, rows, device="cuda").bfloat16(),
                "slots": torch.arange(1, n + 1, dtype=torch.int32, device="cuda") + number * n,
                "initial": torch.ones(n, dtype=torch.bool, device="cuda"),
                "q": q, "k": k,
                "v": torch.randn(total, rows, heads.head_v_dim, device="cuda").bfloat16(),
                "g": -torch.nn.functional.softplus(torch.randn(total, rows, device="cuda")),
                "beta": torch.randn(total, rows, device="cuda").sigmoid(),
                "out": torch.empty(total, rows, heads.head_v_dim, device="cuda", dtype=torch.bfloat16),
            })  # fmt: skip
        return cls(heads, Weights(heads), lengths, state, conv, starts, sets)

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def prepare_bytes(self) -> int:
        heads = self.heads
        return self.tokens * (2 * heads.channels * 2 + heads.num_v_heads * (2 * 2 + 2 * 4))

    def chunk_bytes(self) -> int:
        heads = self.heads
        rows = 2 * heads.num_k_heads * heads.head_k_dim + 2 * heads.num_v_heads * heads.head_v_dim
        states = 2 * len(self.lengths) * heads.num_v_heads * heads.head_v_dim * heads.head_k_dim * 4
        return self.tokens * (rows * 2 + 2 * heads.num_v_heads * 4) + states

    def chunk_flops(self) -> int:
        """Of the rule at chunk 64, per token and head: three products with the state, five of chunk width."""
        heads, c = self.heads, 64
        k, v = heads.head_k_dim, heads.head_v_dim
        per_token = 2 * (3 * k * v + 3 * c * k + 2 * c * v) + 2 * c * c
        return self.tokens * heads.num_v_heads * per_token

    def prepare_ours(self, config: Config | None = None) -> Calls:
        prepare = GdnPrepare(self.heads, **self.weights.named(), null_slot=0, config=config)
        plan = plan_chunks(self.starts, self.tokens)
        return [
            (lambda s=s: prepare(s["mixed_qkv"], s["a"], s["b"], self.conv_state, s["slots"], s["initial"], plan))
            for s in self.sets
        ]

    def prepare_vllm(self) -> Calls | None:
        conv = peer("vllm.model_executor.layers.mamba.ops.causal_conv1d")
        post = peer(f"{OPS}.fused_gdn_prefill_post_conv")
        if conv is None or post is None:
            return None
        w, heads, metadata = self.weights, self.heads, _conv_metadata(self.lengths)

        def one(s: dict[str, torch.Tensor]) -> Callable[[], object]:
            def call() -> object:
                mixed = conv.causal_conv1d_fn(
                    s["mixed_qkv"].transpose(0, 1), w.conv_weight, None, activation="silu",
                    conv_states=self.conv_state.transpose(1, 2), has_initial_state=s["initial"],
                    cache_indices=s["slots"],
                    query_start_loc=self.starts, metadata=metadata,
                ).transpose(0, 1)  # fmt: skip
                return post.fused_post_conv_prep(
                    mixed, s["a"], s["b"], w.A_log, w.dt_bias, heads.num_k_heads, heads.head_k_dim, heads.head_v_dim
                )

            return call

        return [one(s) for s in self.sets]

    def chunk_ours(self, prepare: Config | None = None, scan: Config | None = None, split: int | None = None) -> Calls:
        rule = ChunkRule(self.heads, null_slot=0, prepare=prepare, scan=scan, split=split)
        plan = plan_chunks(self.starts, self.tokens)
        return [
            (
                lambda s=s: rule(
                    s["q"], s["k"], s["v"], s["g"], s["beta"], self.state, s["slots"], s["initial"], plan, s["out"]
                )
            )
            for s in self.sets
        ]

    def chunk_vllm(self, *, pooled: bool = False) -> Calls | None:
        """Its kernels alone, or with the gather before and the scatter after that its layer does around them."""
        chunk, index = peer(f"{OPS}.chunk"), peer(f"{OPS}.index")
        if chunk is None or index is None:
            return None
        indices = index.prepare_chunk_indices(self.starts, 64)
        offsets = index.prepare_chunk_offsets(self.starts, 64)

        def one(s: dict[str, torch.Tensor]) -> Callable[[], object]:
            q, k, v, g, beta = (s[name].unsqueeze(0) for name in ("q", "k", "v", "g", "beta"))
            before, slots = self.state[s["slots"].long()], s["slots"].long()

            def call() -> object:
                initial = before
                if pooled:
                    initial = self.state[slots]
                    initial[~s["initial"], ...] = 0
                out, state = chunk.chunk_gated_delta_rule(
                    q=q, k=k, v=v, g=g, beta=beta, initial_state=initial, output_final_state=True,
                    cu_seqlens=self.starts, chunk_indices=indices, chunk_offsets=offsets,
                )  # fmt: skip
                if pooled:
                    self.state[slots] = state
                return out

            return call

        return [one(s) for s in self.sets]

    def layer_ours(self) -> Calls:
        """Everything between the projections and the norm."""
        prepare = GdnPrepare(self.heads, **self.weights.named(), null_slot=0)
        rule, plan = ChunkRule(self.heads, null_slot=0), plan_chunks(self.starts, self.tokens)

        def one(s: dict[str, torch.Tensor]) -> Callable[[], object]:
            def call() -> object:
                ready = prepare(s["mixed_qkv"], s["a"], s["b"], self.conv_state, s["slots"], s["initial"], plan)
                return rule(*ready, self.state, s["slots"], s["initial"], plan, s["out"])

            return call

        return [one(s) for s in self.sets]

    def layer_vllm(self) -> Calls | None:
        """The same as vLLM's layer does it, with the gather and the scatter of states."""
        prepare, rule = self.prepare_vllm(), self.chunk_vllm(pooled=True)
        if prepare is None or rule is None:
            return None
        # The rule's time does not depend on values: it runs on tensors that were there before, of the same shapes.
        return [(lambda a=a, b=b: (a(), b())) for a, b in zip(prepare, rule, strict=True)]

    def chunk_fla(self) -> Calls | None:
        module = peer("fla.ops.gated_delta_rule")
        if module is None:
            return None
        n, length = len(self.lengths), self.lengths[0]

        def one(s: dict[str, torch.Tensor]) -> Callable[[], object]:
            q, k, v, g, beta = (s[name].unflatten(0, (n, length)) for name in ("q", "k", "v", "g", "beta"))
            before = self.state[s["slots"].long()]
            return lambda: module.chunk_gated_delta_rule(
                q, k, v, g, beta, initial_state=before, output_final_state=True
            )[0]

        return [one(s) for s in self.sets]


def _conv_metadata(lengths: tuple[int, ...]) -> Any:
    """What vLLM's metadata builder makes for its convolution (v1/attention/backends/utils.py)."""
    counts = [-(-length // 8) for length in lengths]
    sequence = torch.tensor([n for n, count in enumerate(counts) for _ in range(count)], dtype=torch.int32)
    offset = torch.tensor([i for count in counts for i in range(count)], dtype=torch.int32)
    size = max(1024, len(sequence)) * 2
    batch_ptr = torch.full((size,), -1, dtype=torch.int32, device="cuda")
    offset_ptr = torch.full((size,), -1, dtype=torch.int32, device="cuda")
    batch_ptr[: len(sequence)] = sequence.cuda()
    offset_ptr[: len(sequence)] = offset.cuda()
    one = {
        "nums": torch.tensor(counts), "tot": sum(counts), "mlist": sequence, "mlist_len": len(sequence),
        "offsetlist": offset, "batch_ptr": batch_ptr, "token_chunk_offset_ptr": offset_ptr,
    }  # fmt: skip
    return SimpleNamespace(nums_dict={8: one}, batch_ptr=batch_ptr, token_chunk_offset_ptr=offset_ptr)
