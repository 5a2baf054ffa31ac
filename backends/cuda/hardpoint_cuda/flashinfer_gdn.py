"""FlashInfer's GDN kernels under the contracts of ours: `FlashInferChunkRule` and `FlashInferDecode`.

Read in FlashInfer 0.6.18 (``flashinfer/gdn_prefill.py``, ``flashinfer/gdn_decode.py``). What differs from our contracts
is bridged here, by torch and without waiting for the device: its decay is linear and not a logarithm, its sequences are
packed and none of them is padding, a sequence without tokens or without a state is not known to it, and an index of -1
means something else for each dtype of the state. Not run on a device yet.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from typing import Any, Literal

import torch

from hardpoint_kernels import KernelRefused, checks
from hardpoint_kernels.gdn.heads import Heads
from hardpoint_kernels.gdn.plan import ChunkPlan

CHUNK_NAME = "FlashInfer chunk rule"
DECODE_NAME = "FlashInfer decode"
HALVES = (torch.bfloat16, torch.float16)
STATES = (torch.float32, torch.bfloat16, torch.float16)
HEAD_SIZE = 128
MAJORS = (9, 10, 12)
# Function -> the arguments that these adapters pass.
CHUNK = ("flashinfer.gdn_prefill", "chunk_gated_delta_rule")
CHUNK_ARGUMENTS = (
    "q", "k", "v", "g", "beta", "scale", "initial_state", "output_final_state", "cu_seqlens", "output",
)  # fmt: skip
DECODE = ("flashinfer.gdn_decode", "gated_delta_rule_decode_pretranspose")
DECODE_ARGUMENTS = (
    "q", "k", "v", "state", "A_log", "a", "dt_bias", "b", "scale", "use_qk_l2norm", "initial_state",
    "initial_state_indices",
)  # fmt: skip
UseCp = Literal["auto"] | bool


def unfit(place: tuple[str, str], arguments: tuple[str, ...], capability: tuple[int, int]) -> str | None:
    """Why the function at `place` cannot be called by these adapters here, None if it can. Imports FlashInfer."""
    if capability[0] not in MAJORS:
        wanted, got = ", ".join(f"{major}.x" for major in MAJORS), ".".join(map(str, capability))
        return f"requires compute capability {wanted}, got {got}"
    cuda = (torch.version.cuda or "0").split(".")[0]
    if place is CHUNK and capability[0] == 10 and int(cuda) < 13:
        return f"requires CUDA 13 or newer on compute capability 10.x, this torch is built for {torch.version.cuda}"
    if importlib.util.find_spec("flashinfer") is None:
        return "flashinfer is not installed"
    module, name = place
    try:
        function = getattr(importlib.import_module(module), name)
        taken = inspect.signature(function).parameters
    except Exception as error:  # noqa: BLE001 - it compiles and loads at import; whatever it raises is the reason
        return f"{module}.{name} cannot be had: {type(error).__name__}: {error}"
    missing = [argument for argument in arguments if argument not in taken]
    if missing:
        return f"{module}.{name} of this version does not take {', '.join(missing)}, which this adapter passes"
    return None


def _check_heads(name: str, heads: Heads) -> None:
    heads.check(name)
    if (heads.head_k_dim, heads.head_v_dim) != (HEAD_SIZE, HEAD_SIZE):
        raise KernelRefused(
            f"{name} requires K = V = {HEAD_SIZE}, got K={heads.head_k_dim}, V={heads.head_v_dim}; nothing was "
            "launched."
        )


def _used(slots: torch.Tensor, pool: int, null_slot: int) -> torch.Tensor:
    """``[N]`` bool: slots that are no padding."""
    return (slots >= 0) & (slots != null_slot) & (slots < pool)


class FlashInferChunkRule:
    """`chunk_gated_delta_rule` of FlashInfer under the contract of `hardpoint_kernels.gdn.chunk.ChunkRule`.

    States are gathered before and scattered after, 8 MiB of traffic a sequence at HV=32.
    """

    def __init__(
        self,
        heads: Heads,
        *,
        scale: float | None = None,
        null_slot: int = -1,
        use_cp: UseCp = "auto",
        padding: bool = True,
        launcher: object = None,
    ) -> None:
        """For layers of these sizes.

        Args:
            heads: sizes; K = V = 128.
            scale: on q, K^-0.5 if None.
            null_slot: a slot that means padding beside negative ones.
            use_cp: FlashInfer's split of a sequence: its own choice, never or always.
            padding: rows of padding and past the last token are set to zero, which costs a pass over the output; False
                where the caller knows that there are none.
            launcher: not used; FlashInfer launches by itself.

        Raises:
            KernelRefused: sizes that it cannot do, or a version without `use_cp` where that is not ``auto``.
        """
        _check_heads(CHUNK_NAME, heads)
        self.heads = heads
        self._scale = heads.scale if scale is None else scale
        self._null_slot = null_slot
        self._padding = padding
        self._function = getattr(importlib.import_module(CHUNK[0]), CHUNK[1])
        takes_cp = "use_cp" in inspect.signature(self._function).parameters
        if not takes_cp and use_cp != "auto":
            raise KernelRefused(
                f"{CHUNK_NAME} was asked for use_cp={use_cp}, and this version of flashinfer has no such argument; "
                "nothing was launched."
            )
        self._extra: dict[str, Any] = {"use_cp": use_cp} if takes_cp else {}

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        g: torch.Tensor,
        beta: torch.Tensor,
        state: torch.Tensor,
        slots: torch.Tensor,
        has_initial_state: torch.Tensor,
        plan: ChunkPlan,
        out: torch.Tensor,
    ) -> torch.Tensor:
        """Run over one batch and return `out`; arguments as `ChunkRule.__call__`. KernelRefused with a sentence."""
        self._check(q, k, v, g, beta, state, slots, has_initial_state, plan, out)
        if plan.tokens == 0 or plan.sequences == 0:
            return out.zero_()
        starts = plan.starts[: plan.sequences + 1]  # without the sequence of rows past the end
        used = _used(slots, state.shape[0], self._null_slot) & (starts[1:] > starts[:-1])
        line = torch.where(used, slots, 0).long()
        before = torch.where((used & has_initial_state)[:, None, None, None], state[line].float(), 0.0)
        _, after = self._function(
            q=q, k=k, v=v, g=g.exp(), beta=beta, scale=self._scale, initial_state=before, output_final_state=True,
            cu_seqlens=starts.long(), output=out, **self._extra,
        )  # fmt: skip
        # A sequence that leaves no state writes what the first one that does writes, so that no slot has two values.
        first = used.int().argmax()
        source = torch.where(used, torch.arange(plan.sequences, device=slots.device), first)
        line = line[source]
        values = torch.where(used.any(), after[source].to(state.dtype), state[line])
        state.index_copy_(0, line, values)
        if self._padding:
            row = torch.arange(plan.tokens, device=slots.device)
            owner = torch.searchsorted(starts.long(), row, right=True) - 1
            inside = row < starts[-1]
            real = inside & used[torch.where(inside, owner, 0)]
            out.masked_fill_(~real[:, None, None], 0.0)
        return out

    def _check(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor, beta: torch.Tensor,
        state: torch.Tensor, slots: torch.Tensor, has_initial_state: torch.Tensor, plan: ChunkPlan, out: torch.Tensor,
    ) -> None:  # fmt: skip
        heads, tokens = self.heads, plan.tokens
        small, large = (tokens, heads.num_k_heads, HEAD_SIZE), (tokens, heads.num_v_heads, HEAD_SIZE)
        for name, tensor, shape, dtypes in (
            ("q", q, small, HALVES), ("k", k, small, (q.dtype,)), ("v", v, large, (q.dtype,)),
            ("g", g, large[:2], (torch.float32,)), ("beta", beta, large[:2], (torch.float32,)),
            ("out", out, large, (q.dtype,)),
        ):  # fmt: skip
            meaning = "[tokens, heads, 128]" if len(shape) == 3 else "[tokens, HV]"
            checks.expect_shape(CHUNK_NAME, name, tensor, shape, meaning)
            checks.expect_dense_rows(CHUNK_NAME, name, tensor, tensor.dim())
            checks.expect_dtype(CHUNK_NAME, name, tensor, dtypes)
        sizes = (None, heads.num_v_heads, HEAD_SIZE, HEAD_SIZE)
        checks.expect_shape(CHUNK_NAME, "state", state, sizes, "[pool, HV, V, K]")
        checks.expect_dtype(CHUNK_NAME, "state", state, STATES)
        checks.expect_shape(CHUNK_NAME, "slots", slots, (plan.sequences,), "[sequences]")
        checks.expect_dtype(CHUNK_NAME, "slots", slots, (torch.int32, torch.int64))
        checks.expect_shape(CHUNK_NAME, "has_initial_state", has_initial_state, (plan.sequences,), "[sequences]")
        checks.expect_dtype(CHUNK_NAME, "has_initial_state", has_initial_state, (torch.bool,))
        checks.expect_one_device(CHUNK_NAME, {"q": q, "k": k, "v": v, "state": state, "slots": slots, "out": out})


class FlashInferDecode:
    """A convolution of ours and FlashInfer's decode rule, under the contract of `GdnDecode` for one token a request.

    With a state in bfloat16 FlashInfer takes slot 0 as scratch for padding: it has to be the null slot then.
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
        launcher: object = None,
        convolve: Callable[..., torch.Tensor] | None = None,
    ) -> None:
        """Bind the weights of a layer; `convolve` stands for `causal_conv1d`. KernelRefused for what it cannot do."""
        _check_heads(DECODE_NAME, heads)
        checks.expect_dtype(DECODE_NAME, "A_log", A_log, (torch.float32,))
        checks.expect_dtype(DECODE_NAME, "dt_bias", dt_bias, (torch.bfloat16, torch.float32))
        if convolve is None:
            from hardpoint_kernels.gdn.pieces import causal_conv1d

            convolve = causal_conv1d
        self.heads = heads
        self._convolve = convolve
        self._launch: dict[str, Any] = {} if launcher is None else {"launcher": launcher}
        self._weights = (conv_weight, conv_bias, A_log, dt_bias)
        self._null_slot = null_slot
        self._function = getattr(importlib.import_module(DECODE[0]), DECODE[1])

    def __call__(
        self,
        mixed_qkv: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        conv_state: torch.Tensor,
        state: torch.Tensor,
        slots: torch.Tensor,
        out: torch.Tensor,
    ) -> torch.Tensor:
        """Run one step and return `out`; arguments as `GdnDecode.__call__`. KernelRefused with a sentence."""
        heads, requests = self.heads, mixed_qkv.shape[0]
        rows = (requests, heads.num_v_heads, HEAD_SIZE)
        checks.expect_shape(DECODE_NAME, "slots", slots, (requests,), "[requests]")
        checks.expect_shape(DECODE_NAME, "out", out, rows, "[requests, HV, V]")
        checks.expect_shape(DECODE_NAME, "state", state, (None, *rows[1:], HEAD_SIZE), "[pool, HV, V, K]")
        checks.expect_dtype(DECODE_NAME, "state", state, (torch.float32, torch.bfloat16))
        for name, tensor in (("mixed_qkv", mixed_qkv), ("a", a), ("b", b)):
            checks.expect_dtype(DECODE_NAME, name, tensor, HALVES)
        if state.dtype == torch.bfloat16 and self._null_slot != 0:
            raise KernelRefused(
                f"{DECODE_NAME}: with a bfloat16 state flashinfer writes padding into slot 0, which must be the null "
                f"slot then, got null_slot={self._null_slot}; nothing was launched."
            )
        if requests == 0:
            return out
        conv_weight, conv_bias, A_log, dt_bias = self._weights
        starts = torch.arange(requests + 1, dtype=torch.int32, device=slots.device)
        mixed = self._convolve(
            mixed_qkv, conv_weight, conv_bias, conv_state, slots, starts,
            num_accepted_tokens=torch.ones_like(slots), null_slot=self._null_slot, **self._launch,
        )  # fmt: skip
        size = heads.num_k_heads * HEAD_SIZE
        parts = torch.split(mixed, [size, size, heads.num_v_heads * HEAD_SIZE], dim=1)
        q, k, v = (part.reshape(requests, 1, -1, HEAD_SIZE).contiguous() for part in parts)
        used = _used(slots, state.shape[0], self._null_slot)
        found, _ = self._function(
            q=q, k=k, v=v, state=None, A_log=A_log, a=a.unsqueeze(1).contiguous(), dt_bias=dt_bias,
            b=b.unsqueeze(1).contiguous(), scale=heads.scale, use_qk_l2norm=True, initial_state=state,
            initial_state_indices=torch.where(used, slots, -1).to(torch.int32),
        )  # fmt: skip
        return out.copy_(torch.where(used[:, None, None], found.view(rows), 0.0))
