"""`ChunkRule`: the gated delta rule over whole sequences, in two launches.

In a chunk of 64 tokens the rule is linear algebra. With d the summed log decays, T = (I + A)^-1, and
A[i, j] = beta_i (k_i k_j) exp(d_i - d_j) below the diagonal::

    u = T (beta v)            w = T (beta exp(d) k)                    # first launch, all chunks side by side
    v_new = u - w S           o = exp(d) (q S) + attention v_new       # second launch, chunk after chunk
    S = exp(d_last) S + (exp(d_last - d) v_new)^T k

The first launch also leaves the chunk's attention matrix, so that the second, which is serial, has no product more
than it needs. The state of every chunk and v_new never go to memory: peers write and read both. The state is read from
its slot and written there; there is no gather before and no scatter after.

Few long sequences leave most of a GPU idle, since each is one chain. A segment of chunks takes a state S to S M + B.
With ``SPLIT`` the M and B of all segments but the last are found side by side (a launch), then the state that each
begins with (a launch, as many steps as segments), and then all segments are scanned side by side: a chain of 2 / SPLIT
of the length, for a little more than twice the work. Not run on a device yet, so no table asks for it.
"""

from __future__ import annotations

from typing import Any

import torch

from hardpoint_kernels import checks
from hardpoint_kernels.errors import KernelRefused
from hardpoint_kernels.gdn._chunk_kernels import chunk_prepare_kernel, chunk_scan_kernel
from hardpoint_kernels.gdn._split_kernels import chunk_join_kernel, chunk_segment_kernel
from hardpoint_kernels.gdn.configs import Config, measured
from hardpoint_kernels.gdn.heads import Heads
from hardpoint_kernels.gdn.plan import CHUNK, ChunkPlan
from hardpoint_kernels.launch import PLAIN, Binding, Launcher

NAME = "GDN chunk rule"
HALVES = (torch.bfloat16, torch.float16)
STATES = (torch.float32, torch.bfloat16, torch.float16)
# Chunks of a segment at least: below, the launches of a split cost more than the chain.
SEGMENT = 4


class ChunkRule:
    """The rule over sequences of any length, with states in a pool; q and k come normalised.

    Rows of padding (see `GdnDecode`) and past the last token are zero. A sequence without tokens keeps its state.
    """

    def __init__(
        self,
        heads: Heads,
        *,
        scale: float | None = None,
        null_slot: int = -1,
        launcher: Launcher = PLAIN,
        prepare: Config | None = None,
        scan: Config | None = None,
        split: int | None = None,
    ) -> None:
        """For layers of these sizes; `scale` on q is K^-0.5 if None. KernelRefused for sizes it cannot do.

        `split` is into how many segments every sequence is cut; None takes what was measured for the batch, and 1
        where nothing was.
        """
        if split is not None and split < 1:
            raise KernelRefused(f"{NAME}: split must be 1 or more segments, got {split}; nothing was launched.")
        heads.check(NAME)
        if min(heads.head_k_dim, heads.head_v_dim) < 64:
            raise KernelRefused(
                f"{NAME} requires K and V of 64 or 128, got K={heads.head_k_dim}, V={heads.head_v_dim}; nothing was "
                "launched."
            )
        self.heads = heads
        self._scale = heads.scale if scale is None else scale
        self._null_slot = null_slot
        self._configs = (prepare, scan)
        self._prepare = Binding(chunk_prepare_kernel, launcher)
        self._scan = Binding(chunk_scan_kernel, launcher)
        self._split = split
        self._segment = Binding(chunk_segment_kernel, launcher)
        self._join = Binding(chunk_join_kernel, launcher)

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
        """Run over one batch and return `out`.

        Args:
            q, k: ``[T, H, K]``, bfloat16 or float16, contiguous; v ``[T, HV, V]``.
            g: ``[T, HV]`` float32, the logarithm of the decay; beta ``[T, HV]`` float32.
            state: ``[pool, HV, V, K]``, the last three dimensions dense, in place.
            slots: ``[N]``; has_initial_state ``[N]`` bool, a sequence without one begins at zero.
            plan: of the same T and N.
            out: ``[T, HV, V]``; every row is written.

        Raises:
            KernelRefused: a sentence; nothing was launched.
        """
        heads = self.heads
        self._check(q, k, v, g, beta, state, slots, has_initial_state, plan, out)
        if plan.tokens == 0:
            return out
        H, HV, K, V = heads.num_k_heads, heads.num_v_heads, heads.head_k_dim, heads.head_v_dim
        w = q.new_empty(plan.chunks, HV, CHUNK, K)
        u = q.new_empty(plan.chunks, HV, V, CHUNK)
        attention = q.new_empty(plan.chunks, HV, CHUNK, CHUNK)
        decay = g.new_empty(plan.chunks, HV, CHUNK)
        sizes: dict[str, Any] = {"H": H, "HV": HV, "K": K, "V": V, "CHUNK": CHUNK, "scale": self._scale}
        shape = {"heads": HV, "sequences": plan.sequences}
        first = self._configs[0] or measured("chunk_prepare", q.device, **shape) or Config({"SMALL": 1}, 4, 1)
        constants = {**sizes, **first.constants()}
        self._prepare(
            tuple(constants.values()),
            (HV, plan.chunks),
            (q, k, v, g, beta, w, u, attention, decay, plan.starts, plan.of_sequence, plan.sequences),
            constants,
        )
        second = (
            self._configs[1]
            or measured("chunk_scan", q.device, **shape)
            or Config({"BV": 64, "STAGES": 3 if V == 128 else 2}, 4)
        )
        split = self._segments(plan, q.device)
        begins = decay
        if split > 1:
            begins = self._begins(split, second, k, w, u, decay, state, slots, has_initial_state, plan)
        constants = {
            **sizes, "null_slot": self._null_slot, "stride_state": state.stride(0), "stride_out": out.stride(0),
            "SPLIT": split, **second.constants(),
        }  # fmt: skip
        self._scan(
            tuple(constants.values()),
            (V // second.blocks["BV"], HV, (plan.sequences + 1) * split),
            (q, k, w, u, attention, decay, state, begins, out, slots, has_initial_state, plan.starts, plan.first_chunk,
             state.shape[0], plan.sequences),
            constants,
        )  # fmt: skip
        return out

    def _segments(self, plan: ChunkPlan, device: torch.device) -> int:
        """Into how many segments the sequences of this batch are cut."""
        if self._split is not None or plan.sequences == 0:
            return self._split or 1
        shape = {"heads": self.heads.num_v_heads, "sequences": plan.sequences, "tokens": plan.tokens}
        found = measured("chunk_split", device, **shape)
        split = 1 if found is None else found.blocks["SPLIT"]
        return split if plan.tokens >= split * SEGMENT * CHUNK * plan.sequences else 1

    def _begins(
        self, split: int, config: Config, k: torch.Tensor, w: torch.Tensor, u: torch.Tensor, decay: torch.Tensor,
        state: torch.Tensor, slots: torch.Tensor, has_initial_state: torch.Tensor, plan: ChunkPlan,
    ) -> torch.Tensor:  # fmt: skip
        """``[N, split, HV, V, K]`` float32: the state that each segment begins with."""
        heads, count = self.heads, plan.sequences
        H, HV, K, V = heads.num_k_heads, heads.num_v_heads, heads.head_k_dim, heads.head_v_dim
        summary = decay.new_empty(count, split - 1, HV, V + K, K)
        begins = decay.new_empty(count, split, HV, V, K)
        if count == 0:
            return begins
        sizes = {"HV": HV, "K": K, "V": V, "CHUNK": CHUNK, "SPLIT": split, "null_slot": self._null_slot}
        constants: dict[str, Any] = {**sizes, "H": H, **config.constants(), "BV": 64}
        self._segment(
            tuple(constants.values()),
            ((V + K) // 64, HV, count * (split - 1)),
            (k, w, u, decay, summary, slots, plan.starts, plan.first_chunk, state.shape[0]),
            constants,
        )
        constants = {**sizes, "stride_state": state.stride(0), "BJ": 16, "num_warps": 8, "num_stages": 2}
        self._join(
            tuple(constants.values()),
            (V // 16, HV, count),
            (state, summary, begins, slots, has_initial_state, plan.starts, state.shape[0]),
            constants,
        )
        return begins

    def _check(
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
    ) -> None:
        heads, tokens = self.heads, plan.tokens
        small, large = (tokens, heads.num_k_heads, heads.head_k_dim), (tokens, heads.num_v_heads, heads.head_v_dim)
        for name, tensor, shape, meaning in (
            ("q", q, small, "[tokens, H, K]"),
            ("k", k, small, "[tokens, H, K]"),
            ("v", v, large, "[tokens, HV, V]"),
            ("g", g, large[:2], "[tokens, HV]"),
            ("beta", beta, large[:2], "[tokens, HV]"),
        ):
            checks.expect_shape(NAME, name, tensor, shape, meaning)
            checks.expect_dense_rows(NAME, name, tensor, tensor.dim())
            checks.expect_dtype(NAME, name, tensor, HALVES if tensor.dim() == 3 else (torch.float32,))
        checks.expect_dtype(NAME, "k", k, (q.dtype,))
        checks.expect_dtype(NAME, "v", v, (q.dtype,))
        checks.expect_shape(NAME, "out", out, large, "[tokens, HV, V]")
        checks.expect_dense_rows(NAME, "out", out, 2)
        sizes = (None, heads.num_v_heads, heads.head_v_dim, heads.head_k_dim)
        checks.expect_shape(NAME, "state", state, sizes, "[pool, HV, V, K]")
        checks.expect_dense_rows(NAME, "state", state, 3)
        checks.expect_dtype(NAME, "state", state, STATES)
        for name, tensor in (("slots", slots), ("has_initial_state", has_initial_state)):
            checks.expect_shape(NAME, name, tensor, (plan.sequences,), "[sequences]")
            checks.expect_dense_rows(NAME, name, tensor)
        checks.expect_dtype(NAME, "slots", slots, (torch.int32, torch.int64))
        checks.expect_dtype(NAME, "has_initial_state", has_initial_state, (torch.bool,))
        tensors = {"q": q, "k": k, "v": v, "g": g, "beta": beta, "state": state, "slots": slots, "out": out}
        checks.expect_one_device(NAME, {**tensors, "has_initial_state": has_initial_state, "the plan": plan.starts})
