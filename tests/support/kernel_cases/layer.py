"""hardpoint's kernels inside a GDN layer as vLLM 0.26 to 0.32 keep it: same metadata, same pools, other kernels.

The layer is a stand-in with the attributes that the subclass reads; its own core only notes that it was called.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from hardpoint.launcher import KernelOffer, Refusal
from hardpoint_kernels.gdn import reference
from hardpoint_kernels.gdn.decode import GdnDecode
from hardpoint_kernels.gdn.heads import Heads
from hardpoint_kernels.gdn.prefill import GdnPrefill
from support.kernel_cases.decode import bound_of
from support.kernel_cases.inputs import close, half_of, make_layer, tokens

HEADS = Heads(1, 2, 64, 64)
OFFERS = {"gdn_decode": GdnDecode, "gdn_prefill": GdnPrefill}
context = SimpleNamespace(attn_metadata=None)


def _stand_in_for_vllm() -> None:
    module = ModuleType("vllm.forward_context")
    module.get_forward_context = lambda: context  # type: ignore[attr-defined]
    sys.modules |= {"vllm": ModuleType("vllm"), "vllm.forward_context": module}


class QwenGatedDeltaNetAttention:
    """What is read of vLLM's layer; both methods of its own note the call."""

    def __init__(self, device: str, *, dim_first: bool = False) -> None:
        self.weights = make_layer(HEADS, half_of(device), pool=9).to(device)
        self.prefix, self.tp_size = "model.layers.0.linear_attn", 2
        self.num_k_heads, self.num_v_heads = 2 * HEADS.num_k_heads, 2 * HEADS.num_v_heads
        self.head_k_dim, self.head_v_dim = HEADS.head_k_dim, HEADS.head_v_dim
        self.conv1d = SimpleNamespace(weight=self.weights.conv_weight.unsqueeze(1), bias=None)
        self.A_log, self.dt_bias = self.weights.A_log, self.weights.dt_bias
        self.gdn_prefill_backend = "triton"
        windows = self.weights.conv_state
        kept = windows.transpose(1, 2).contiguous() if dim_first else windows
        self.kv_cache = (kept, self.weights.state)
        self.own: list[str] = []

    def _forward_core(self, *args: Any) -> None:
        self.own.append("core")

    def _forward_core_decode_non_spec(self, *args: Any) -> None:
        self.own.append("decode")


def make(device: str, mode: str, answers: Any = None, **options: Any) -> Any:
    """A layer of the subclass that `mode` of HARDPOINT_KERNELS gives."""
    from hardpoint_vllm.kernels import choice, layer

    _stand_in_for_vllm()
    os.environ["HARDPOINT_KERNELS"] = mode
    os.environ["HARDPOINT_BACKEND"] = "cuda" if device != "cpu" else "cpu"
    choice._choose.cache_clear()
    choice.answers = answers or (lambda op: [KernelOffer(op, "hardpoint", OFFERS[op])])
    layer.get_backend = lambda: SimpleNamespace(launcher=_Plain())  # cpu's own launches no Triton
    return layer.with_kernels(QwenGatedDeltaNetAttention)(device, **options)


class _Plain:
    def bind(self, kernel: Any, *args: Any, grid: Any = None, **kwargs: Any) -> Any:
        return lambda *again, grid=grid: kernel[grid](*again, **kwargs)


def metadata(device: str, decodes: int, prefills: tuple[int, ...]) -> SimpleNamespace:
    """Of a batch with decodes first; every second prefill goes on from a state."""
    slots = torch.tensor([5, 2, 7, 1, 3, 4][: decodes + len(prefills)], dtype=torch.int32, device=device)
    starts = torch.tensor([0, *torch.tensor(prefills).cumsum(0).tolist()], dtype=torch.int32, device=device)
    initial = torch.tensor([n % 2 == 0 for n in range(len(prefills))], device=device)
    return SimpleNamespace(
        num_prefills=len(prefills), num_prefill_tokens=sum(prefills), num_decodes=decodes, num_decode_tokens=decodes,
        num_actual_tokens=decodes + sum(prefills), spec_sequence_masks=None, non_spec_state_indices_tensor=slots,
        prefill_query_start_loc=starts, prefill_state_indices=slots[decodes:], prefill_has_initial_state=initial,
    )  # fmt: skip


def run_core(layer: Any, device: str, decodes: int, prefills: tuple[int, ...], spare: int = 2) -> None:
    """One batch through ``_forward_core``, held against the references; rows of padding stay as they were."""
    given = tokens(HEADS, decodes + sum(prefills) + spare, half_of(device))
    expected = layer.weights.to("cpu")
    facts = metadata(device, decodes, prefills)
    context.attn_metadata = {layer.prefix: facts}
    out = torch.zeros(given["a"].shape[0], 2, 64, dtype=half_of(device), device=device)
    layer._forward_core(given["mixed_qkv"].to(device), given["b"].to(device), given["a"].to(device), out)
    slots, weights = facts.non_spec_state_indices_tensor.cpu(), (expected.A_log, expected.dt_bias)
    rows = slice(0, decodes)
    wanted = reference.decode(
        HEADS, given["mixed_qkv"][rows], given["a"][rows], given["b"][rows], *weights, expected.conv_state,
        expected.conv_weight, None, expected.state, slots[:decodes], null_slot=0, dtype=torch.float64,
    )  # fmt: skip
    end = decodes + sum(prefills)
    rows, starts = slice(decodes, end), facts.prefill_query_start_loc.cpu()
    after = (slots[decodes:], facts.prefill_has_initial_state.cpu(), starts)
    ready = reference.prefill_prepare(
        HEADS, given["mixed_qkv"][rows], given["a"][rows], given["b"][rows], *weights, expected.conv_state,
        expected.conv_weight, None, *after, null_slot=0, dtype=torch.float64,
    )  # fmt: skip
    rule = reference.chunk_rule(*ready, expected.state, *after, scale=HEADS.scale, null_slot=0, dtype=torch.float64)
    limit = 4 * bound_of(half_of(device))
    close(out[:end], torch.cat([wanted, rule]), limit, "output")
    close(layer.kv_cache[1], expected.state, limit, "states")
    windows = layer.kv_cache[0]
    windows = windows if windows.shape[-1] == HEADS.channels else windows.transpose(1, 2)
    assert torch.equal(windows.cpu(), expected.conv_state), "windows"
    assert not out[end:].any() and not layer.own


def case_mixed_batch(device: str) -> None:
    """Decodes first, then prefills, in both layouts of the windows."""
    for dim_first in (False, True):
        run_core(make(device, "all", dim_first=dim_first), device, 2, (5, 70))
    run_core(make(device, "prefill"), device, 0, (66,))


def case_decode(device: str) -> None:
    """A batch of decodes alone, with a null slot as full graphs pad with."""
    layer = make(device, "decode")
    given, expected = tokens(HEADS, 3, half_of(device)), layer.weights.to("cpu")
    facts = metadata(device, 3, ())
    facts.non_spec_state_indices_tensor[1] = 0
    out = torch.zeros(3, 2, 64, dtype=half_of(device), device=device)
    moved = (given["mixed_qkv"].to(device), given["b"].to(device), given["a"].to(device))
    layer._forward_core_decode_non_spec(*moved, out, facts)
    wanted = reference.decode(
        HEADS, given["mixed_qkv"], given["a"], given["b"], expected.A_log, expected.dt_bias, expected.conv_state,
        expected.conv_weight, None, expected.state, facts.non_spec_state_indices_tensor.cpu(), null_slot=0,
        dtype=torch.float64,
    )  # fmt: skip
    close(out, wanted, bound_of(half_of(device)), "output")
    assert not out[1].any() and not layer.own


def case_left_to_vllm(device: str) -> None:
    """Speculative batches, profile runs, checkpoints, parts that are off, and what was never measured here."""
    given = tokens(HEADS, 8, half_of(device))
    args = (given["mixed_qkv"].to(device), given["b"].to(device), given["a"].to(device))
    out = torch.zeros(8, 2, 64, dtype=half_of(device), device=device)
    for mode, change in (
        ("all", {"spec_sequence_masks": torch.ones(1)}), ("all", {"checkpoint": object()}), ("decode", {}),
        ("auto", {}),
    ):  # fmt: skip
        layer = make(device, mode)
        facts = metadata(device, 0, (8,))
        vars(facts).update(change)
        context.attn_metadata = {layer.prefix: facts}
        layer._forward_core(*args, out)
        assert layer.own == ["core"], (mode, change)
    layer = make(device, "all")
    context.attn_metadata = None
    layer._forward_core(*args, out)
    assert layer.own == ["core"] and not out.any()
    assert type(make(device, "off")) is QwenGatedDeltaNetAttention


def case_refused(device: str) -> None:
    """Not offered: a layer that asks for it by name is not made, and says why; a weight that moved is bound anew."""
    make(device, "auto", lambda op: [Refusal(op, "hardpoint", "requires compute capability 8.0")])
    for answer, words in (
        (lambda op: [Refusal(op, "hardpoint", "requires compute capability 8.0")], "requires compute capability 8.0"),
        (lambda op: [], "no plugin offers it"),
    ):
        try:
            make(device, "prefill", answer)
        except RuntimeError as error:
            assert words in str(error) and "HARDPOINT_KERNELS asks for hardpoint's gdn_prefill" in str(error)
        else:
            raise AssertionError("was not refused")
    layer = make(device, "all")
    run_core(layer, device, 0, (3,))
    layer.weights.conv_weight.mul_(0.5)  # in place: the same storage, seen at once
    run_core(layer, device, 0, (3,))
    moved = (layer.weights.conv_weight * 2).contiguous()
    object.__setattr__(layer.weights, "conv_weight", moved)
    layer.conv1d.weight = moved.unsqueeze(1)
    run_core(layer, device, 0, (3,))
