"""FlashInfer's GDN kernels behind our contracts, with a strict stand-in in its place.

The stand-in has the signatures of FlashInfer 0.6.18, executes the reference in torch, and refuses what the real
functions refuse (their own assertions) or cannot stand: tensors with gaps, a decay that is a logarithm, two requests
with one state. It writes no row past the last token; for an index of -1 it does what each of the two real kernels says.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton, which is installed on Linux only")

from hardpoint.launcher import KernelOffer, Refusal
from hardpoint_cuda import flashinfer_gdn, kernels
from hardpoint_cuda.flashinfer_gdn import FlashInferChunkRule, FlashInferDecode
from hardpoint_kernels import KernelRefused
from hardpoint_kernels.gdn import reference
from hardpoint_kernels.gdn.heads import Heads
from hardpoint_kernels.gdn.plan import plan_chunks

HEADS = Heads(1, 2)
HALF = torch.bfloat16


def chunk_gated_delta_rule(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor | None = None,
    beta: torch.Tensor | None = None, scale: float | None = None, initial_state: torch.Tensor | None = None,
    output_final_state: bool = False, cu_seqlens: torch.Tensor | None = None, use_qk_l2norm_in_kernel: bool = False,
    output: torch.Tensor | None = None, output_state: torch.Tensor | None = None,
    state_checkpoints: torch.Tensor | None = None, checkpoint_cu_starts: torch.Tensor | None = None,
    checkpoint_every_n_tokens: int = 0, use_cp: Any = "auto", state_indices: torch.Tensor | None = None,
    _cp_chunk_len: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    assert use_cp in ("auto", True, False) and cu_seqlens is not None and output is not None
    assert g is not None and beta is not None and initial_state is not None and output_final_state
    assert cu_seqlens.dtype in (torch.int32, torch.int64) and q.shape[-1] == 128
    assert q.dtype in (torch.float16, torch.bfloat16) and q.dtype == k.dtype == v.dtype == output.dtype
    for tensor in (q, k, v, g, beta, output, initial_state):
        assert tensor.is_contiguous()
    assert g.dtype == beta.dtype == initial_state.dtype == torch.float32
    count = int(cu_seqlens[-1])
    real = g[:count][~g[:count].isnan()]
    assert bool(((real > 0) & (real <= 1)).all()), "the decay is linear"
    assert initial_state.shape == (len(cu_seqlens) - 1, v.shape[1], 128, 128)
    states = initial_state.clone()
    slots = torch.arange(len(cu_seqlens) - 1)
    found = reference.chunk_rule(
        q, k, v, g.log(), beta, states, slots, torch.ones_like(slots, dtype=torch.bool), cu_seqlens, scale=scale or 0.0
    )
    output[:count] = found[:count].to(output.dtype)
    return output, states


def gated_delta_rule_decode_pretranspose(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, state: torch.Tensor | None, A_log: torch.Tensor,
    a: torch.Tensor, dt_bias: torch.Tensor, b: torch.Tensor, scale: float | None = None,
    output: torch.Tensor | None = None, use_qk_l2norm: bool = True, initial_state: torch.Tensor | None = None,
    initial_state_indices: torch.Tensor | None = None, output_state_indices: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    assert state is None and initial_state is not None and initial_state_indices is not None and use_qk_l2norm
    assert q.dtype in (torch.float16, torch.bfloat16) and a.shape == b.shape == (*q.shape[:2], v.shape[2])
    assert A_log.dtype == torch.float32 and dt_bias.dtype in (torch.bfloat16, torch.float32)
    assert all(tensor.is_contiguous() for tensor in (q, k, v, a, b)) and q.shape[1] == 1 and q.shape[-1] == 128
    out = torch.zeros(v.shape, dtype=torch.bfloat16)
    scratch = initial_state.dtype == torch.bfloat16
    assert scratch or initial_state.dtype == torch.float32
    used = [index for index in initial_state_indices.tolist() if index >= 0]
    assert len(set(used)) == len(used) and max(used) < initial_state.shape[0]
    g, beta = reference.gating(a[:, 0], b[:, 0], A_log, dt_bias)
    for n, index in enumerate(initial_state_indices.tolist()):
        if index < 0 and not scratch:
            continue
        line = max(index, 0)  # bfloat16: slot 0 is scratch, and the row's output is whatever comes of it
        given = (reference.l2norm(q[n].float()) * scale, reference.l2norm(k[n].float()), v[n].float())
        found, after = reference.delta_rule_sequence(*given, g[n : n + 1], beta[n : n + 1], initial_state[line].float())
        out[n] = found.to(out.dtype)
        initial_state[line] = after[0].to(initial_state.dtype)
    return out, initial_state


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install the stand-in, or whatever functions a test has instead, on a Hopper."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))

    def install(
        chunk: Callable[..., Any] = chunk_gated_delta_rule,
        decode: Callable[..., Any] = gated_delta_rule_decode_pretranspose,
    ) -> None:
        package, prefill, step = (
            types.ModuleType(name) for name in ("flashinfer", "flashinfer.gdn_prefill", "flashinfer.gdn_decode")
        )
        package.__spec__ = types.SimpleNamespace(name="flashinfer")  # type: ignore[assignment]
        package.__path__ = []
        prefill.chunk_gated_delta_rule = chunk  # type: ignore[attr-defined]
        step.gated_delta_rule_decode_pretranspose = decode  # type: ignore[attr-defined]
        for module in (package, prefill, step):
            monkeypatch.setitem(sys.modules, module.__name__, module)

    return install


def prompts(lengths: tuple[int, ...], spare: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    count = sum(lengths) + spare
    q, k = (reference.l2norm(torch.randn(count, 1, 128, generator=generator)).to(HALF) for _ in range(2))
    v = torch.randn(count, 2, 128, generator=generator).to(HALF)
    g = -torch.nn.functional.softplus(torch.randn(count, 2, generator=generator))
    return q, k, v, g, torch.randn(count, 2, generator=generator).sigmoid()


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("slots", [[4, 1, 2, 3], [-1, 5, 0, 9], [0, 0, -1, 9]], ids=str)
def test_chunk_rule_keeps_our_contract(
    library: Callable[..., None], slots: list[int], state_dtype: torch.dtype
) -> None:
    """Fresh sequences, none with tokens, padding, a tail of NaN: as the reference says, and every row is written."""
    library()
    lengths, spare = (3, 4, 0, 2), 5
    given = prompts(lengths, spare)
    for tensor in given:
        tensor[sum(lengths) :] = float("nan")
    starts = torch.tensor([0, 3, 7, 7, 9], dtype=torch.int32)
    initial = torch.tensor([True, False, True, True])
    state = torch.randn(6, 2, 128, 128, generator=torch.Generator().manual_seed(1)).to(state_dtype)
    expected = state.clone()
    chosen = torch.tensor(slots, dtype=torch.int32)
    wanted = reference.chunk_rule(
        *given, expected, chosen, initial, starts, scale=HEADS.scale, null_slot=0, dtype=torch.float64
    )
    out = torch.full_like(given[2], float("nan"))
    rule = FlashInferChunkRule(HEADS, null_slot=0)
    rule(*given, state, chosen, initial, plan_chunks(starts, 14), out)
    torch.testing.assert_close(out.double(), wanted, atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(state, expected, atol=2e-2, rtol=2e-2)
    untouched = sorted(set(range(6)) - {slot for slot, n in zip(slots, lengths, strict=True) if n and 0 < slot < 6})
    before = torch.randn(6, 2, 128, 128, generator=torch.Generator().manual_seed(1)).to(state_dtype)
    assert torch.equal(state[untouched], before[untouched])


def test_chunk_rule_refuses_in_sentences(library: Callable[..., None]) -> None:
    library()
    q, k, v, g, beta = prompts((4,), 0)
    state, slots = torch.zeros(3, 2, 128, 128), torch.tensor([1])
    initial, plan = torch.tensor([True]), plan_chunks(torch.tensor([0, 4]), 4)
    good: list[Any] = [q, k, v, g, beta, state, slots, initial, plan, torch.empty_like(v)]
    rule = FlashInferChunkRule(HEADS)
    for index, bad, words in (
        (0, q.float(), "q must be bfloat16 or float16"),
        (1, k.half(), "k must be bfloat16, got float16"),
        (2, v.repeat(1, 1, 2)[:, :, ::2], "dimension(s) of v must be contiguous"),
        (3, g.half(), "g must be float32"),
        (4, beta[:, :1], "beta must be"),
        (5, state.double(), "state must be float32"),
        (6, slots.float(), "slots must be int32 or int64"),
        (7, initial.int(), "has_initial_state must be bool"),
        (9, v[:2], "out must be"),
    ):
        with pytest.raises(KernelRefused) as refused:
            rule(*good[:index], bad, *good[index + 1 :])
        assert words in str(refused.value)
    with pytest.raises(KernelRefused, match="K = V = 128, got K=64"):
        FlashInferChunkRule(Heads(1, 2, 64, 64))


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16])
def test_decode_keeps_our_contract(library: Callable[..., None], state_dtype: torch.dtype) -> None:
    library()
    generator = torch.Generator().manual_seed(5)
    requests, rows = 4, HEADS.channels
    mixed, a, b = (torch.randn(requests, n, generator=generator).to(HALF) for n in (rows, 2, 2))
    weights = {
        "conv_weight": (torch.randn(rows, 4, generator=generator) * 0.5).to(HALF), "conv_bias": None,
        "A_log": torch.rand(2, generator=generator), "dt_bias": torch.randn(2, generator=generator).to(HALF),
    }  # fmt: skip
    conv_state = torch.randn(6, 3, rows, generator=generator).to(HALF)
    state = (torch.randn(6, 2, 128, 128, generator=generator) * 0.3).to(state_dtype)
    slots = torch.tensor([3, -1, 1, 7], dtype=torch.int32)
    expected, windows = state.clone(), conv_state.clone()
    wanted = reference.decode(
        HEADS, mixed, a, b, weights["A_log"], weights["dt_bias"], windows, weights["conv_weight"], None, expected,
        slots, null_slot=0, dtype=torch.float64,
    )  # fmt: skip
    step = FlashInferDecode(HEADS, **weights, null_slot=0, convolve=convolve)
    out = torch.full((requests, 2, 128), float("nan"), dtype=HALF)
    step(mixed, a, b, conv_state, state, slots, out)
    torch.testing.assert_close(out.double(), wanted, atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(state[1:], expected[1:], atol=2e-2, rtol=2e-2)
    if state_dtype == torch.bfloat16:
        with pytest.raises(KernelRefused, match="slot 0, which must be the null slot"):
            FlashInferDecode(HEADS, **weights, convolve=convolve)(mixed, a, b, conv_state, state, slots, out)


def convolve(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, conv_state: torch.Tensor, slots: torch.Tensor,
    query_start_loc: torch.Tensor, *, num_accepted_tokens: torch.Tensor, null_slot: int,
) -> torch.Tensor:  # fmt: skip
    """`causal_conv1d` for one token a request, in torch."""
    assert query_start_loc.tolist() == list(range(len(slots) + 1)) and num_accepted_tokens.tolist() == [1] * len(slots)
    out = torch.zeros_like(x)
    for n, slot in enumerate(slots.tolist()):
        if not reference.is_padding(slot, conv_state.shape[0], null_slot):
            found = reference.conv_sequence(x[n : n + 1], conv_state[slot], weight, bias, dtype=torch.float32)
            out[n] = found[0].to(x.dtype)
    return out


def test_every_variant_is_offered_where_it_can_be_called(library: Callable[..., None]) -> None:
    library()
    offers = {row.provider: row for row in kernels.offers("gdn_chunk_rule") or [] if isinstance(row, KernelOffer)}
    assert list(offers) == ["hardpoint", "flashinfer", "flashinfer cp=False", "flashinfer cp=True"]
    made = [offers[name].function(HEADS)._extra for name in list(offers)[1:]]
    assert made == [{"use_cp": "auto"}, {"use_cp": False}, {"use_cp": True}]
    step = [row.provider for row in kernels.offers("gdn_decode") or [] if isinstance(row, KernelOffer)]
    assert step == ["hardpoint", "flashinfer"]


def test_another_signature_is_refused_with_what_it_lacks(library: Callable[..., None]) -> None:
    def older(q: Any, k: Any, v: Any, g: Any, beta: Any, scale: Any, initial_state: Any, output_final_state: Any,
              cu_seqlens: Any, output: Any) -> None: ...  # fmt: skip

    def other(q: Any, k: Any, v: Any, state: Any) -> None: ...

    library(older, other)
    rows = kernels.offers("gdn_chunk_rule") or []
    assert [type(row) for row in rows[1:]] == [KernelOffer, Refusal, Refusal]
    assert isinstance(rows[2], Refusal) and "does not take use_cp" in rows[2].reason
    with pytest.raises(KernelRefused, match="has no such argument"):
        FlashInferChunkRule(HEADS, use_cp=True)
    refusal = (kernels.offers("gdn_decode") or [])[1]
    assert isinstance(refusal, Refusal) and "does not take A_log, a, dt_bias" in refusal.reason


def test_where_it_cannot_run_it_is_refused(library: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    library()
    place, arguments = flashinfer_gdn.CHUNK, flashinfer_gdn.CHUNK_ARGUMENTS
    assert "capability 9.x, 10.x, 12.x, got 8.0" in str(flashinfer_gdn.unfit(place, arguments, (8, 0)))
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert "CUDA 13 or newer" in str(flashinfer_gdn.unfit(place, arguments, (10, 0)))
    assert flashinfer_gdn.unfit(flashinfer_gdn.DECODE, flashinfer_gdn.DECODE_ARGUMENTS, (10, 0)) is None
    monkeypatch.delattr(sys.modules["flashinfer.gdn_prefill"], "chunk_gated_delta_rule")
    assert "cannot be had: AttributeError" in str(flashinfer_gdn.unfit(place, arguments, (9, 0)))
