"""Bad input, line by line of the list of what must be refused in one sentence or give the documented zero.

The cases of each kernel have more of it; here every line meets every kernel that it can reach.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hardpoint_kernels import checks
from hardpoint_kernels.gdn.chunk import ChunkRule
from hardpoint_kernels.gdn.decode import GdnDecode
from hardpoint_kernels.gdn.heads import Heads
from hardpoint_kernels.gdn.pieces import causal_conv1d, gdn_gating
from hardpoint_kernels.gdn.plan import plan_chunks
from hardpoint_kernels.gdn.prefill_conv import GdnPrepare
from support.kernel_cases.decode import expect
from support.kernel_cases.inputs import half_of, make_layer, poisoned, tokens

HEADS = Heads(1, 2, 64, 64)
POOL = 6


class Calls:
    """Every kernel on one batch; each call takes changes to its arguments by name, and returns all rows it wrote."""

    def __init__(self, device: str, lengths: tuple[int, ...] = (3, 2), slots: tuple[int, ...] = (4, 1)) -> None:
        self.device, self.dtype = device, half_of(device)
        layer = make_layer(HEADS, self.dtype, pool=POOL).to(device)
        count = sum(lengths)
        given = {name: tensor.to(device) for name, tensor in tokens(HEADS, count, self.dtype).items()}
        starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32, device=device)
        k = torch.nn.functional.normalize(torch.randn(count, 1, 64, device=device), dim=-1).to(self.dtype)
        v = torch.randn(count, 2, 64, device=device).to(self.dtype)
        gates = torch.full((count, 2), -0.5, device=device)
        self.given: dict[str, Any] = {
            **given, "conv_state": layer.conv_state, "state": layer.state, "starts": starts, "q": k, "k": k.clone(),
            "v": v, "g": gates, "beta": -gates, "plan": plan_chunks(starts, count),
            "slots": torch.tensor(slots, dtype=torch.int32, device=device),
            "initial": torch.ones(len(lengths), dtype=torch.bool, device=device),
            "A_log": layer.A_log, "dt_bias": layer.dt_bias,
        }  # fmt: skip
        self.layer = layer

    def _pick(self, change: dict[str, Any], *names: str) -> list[Any]:
        assert set(change) <= set(names), f"{set(change) - set(names)} is no argument here"
        return [change.get(name, self.given[name]) for name in names]

    def decode(self, **change: Any) -> list[torch.Tensor]:
        """One token a request: the rows are the requests."""
        step = GdnDecode(HEADS, **self.layer.weights(), null_slot=0)
        picked = self._pick(change, "mixed_qkv", "a", "b", "conv_state", "state", "slots")
        out = poisoned(picked[0].shape[0], 2, 64, dtype=self.dtype, device=self.device)
        return [step(*picked, out)]

    def prepare(self, **change: Any) -> list[torch.Tensor]:
        prepare = GdnPrepare(HEADS, **self.layer.weights(), null_slot=0)
        return list(prepare(*self._pick(change, "mixed_qkv", "a", "b", "conv_state", "slots", "initial", "plan")))

    def chunk(self, **change: Any) -> list[torch.Tensor]:
        names = ("q", "k", "v", "g", "beta", "state", "slots", "initial", "plan")
        out = poisoned(*self.given["v"].shape, dtype=self.dtype, device=self.device)
        return [ChunkRule(HEADS, null_slot=0)(*self._pick(change, *names), out)]

    def convolve(self, **change: Any) -> list[torch.Tensor]:
        x, conv_state, slots, starts = self._pick(change, "mixed_qkv", "conv_state", "slots", "starts")
        return [
            causal_conv1d(
                x, self.layer.conv_weight, None, conv_state, slots, starts, null_slot=0,
                has_initial_state=self.given["initial"],
            )
        ]  # fmt: skip

    def gate(self, **change: Any) -> list[torch.Tensor]:
        return list(gdn_gating(*self._pick(change, "a", "b", "A_log", "dt_bias")))


def _each(device: str, **made: Any) -> list[tuple[str, Calls, Callable[..., list[torch.Tensor]]]]:
    calls = Calls(device, **made)
    return [(name, calls, getattr(calls, name)) for name in ("prepare", "chunk", "convolve")]


def _decode(device: str, slots: tuple[int, ...]) -> Calls:
    return Calls(device, lengths=(1,) * len(slots), slots=slots)


def case_not_contiguous(device: str) -> None:
    """Where it is needed: one sentence with the name."""
    calls = _decode(device, (4, 1))
    wide = {name: calls.given[name].repeat_interleave(2, -1)[..., ::2] for name in ("mixed_qkv", "a", "v", "g")}
    expect("mixed_qkv must be contiguous", calls.decode, mixed_qkv=wide["mixed_qkv"])
    expect("mixed_qkv must be contiguous", calls.prepare, mixed_qkv=wide["mixed_qkv"])
    expect("x must be contiguous", calls.convolve, mixed_qkv=wide["mixed_qkv"])
    expect("a must be contiguous", calls.gate, a=wide["a"])
    expect("dimension(s) of v must be contiguous", calls.chunk, v=wide["v"])
    expect("dimension(s) of g must be contiguous", calls.chunk, g=wide["g"])
    expect("state must be contiguous", calls.decode, state=calls.given["state"].transpose(2, 3))


def case_wrong_dtype(device: str) -> None:
    """One sentence with the name, what was expected and what was found."""
    calls = _decode(device, (4, 1))
    for name, call in (
        ("mixed_qkv", calls.decode),
        ("mixed_qkv", calls.prepare),
        ("v", calls.chunk),
        ("a", calls.gate),
    ):
        expect(f"{name} must be", call, **{name: calls.given[name].to(torch.float64)})
        expect("got float64", call, **{name: calls.given[name].to(torch.float64)})
    for call in (calls.decode, calls.prepare, calls.chunk, calls.convolve):
        expect("slots must be int32 or int64, got float32", call, slots=calls.given["slots"].float())


def case_wrong_head_size(device: str) -> None:
    """What the kernels cannot do is said when they are made."""
    for heads, words in ((Heads(1, 2, 96, 96), "requires K in"), (Heads(2, 3, 64, 64), "HV to be a multiple of H")):
        layer = make_layer(heads, half_of(device), pool=2).to(device).weights()
        for made in (GdnDecode, GdnPrepare):
            expect(words, made, heads, **layer)
        expect(words, ChunkRule, heads)


def case_empty_batch(device: str) -> None:
    """No requests: no rows, and no state is touched."""
    for name, calls, call in _each(device, lengths=(), slots=()):
        before = calls.given["state"].clone(), calls.given["conv_state"].clone()
        assert all(tensor.shape[0] == 0 for tensor in call()), name
        assert torch.equal(calls.given["state"], before[0]) and torch.equal(calls.given["conv_state"], before[1])
    empty = _decode(device, ())
    assert empty.decode()[0].shape == (0, 2, 64) and empty.gate()[0].shape == (0, 2)


def case_sequence_of_no_tokens(device: str) -> None:
    """Its state and its window stay, and the others' rows are all written."""
    for name, calls, call in _each(device, lengths=(3, 0, 2), slots=(4, 2, 1)):
        before = calls.given["state"][2].clone(), calls.given["conv_state"][2].clone()
        assert all(bool(tensor.isfinite().all()) for tensor in call()), name
        assert torch.equal(calls.given["state"][2], before[0]) and torch.equal(calls.given["conv_state"][2], before[1])


def case_index_outside_the_pool(device: str) -> None:
    """Padding, as the docs say: zero rows, nothing touched; `check_slots` says it in a sentence."""
    for beyond in (POOL, 10**6, -7):
        for name, calls, call in _each(device, slots=(beyond, 1)):
            before = calls.given["state"].clone(), calls.given["conv_state"].clone()
            for tensor in call():
                assert not tensor[:3].any() and tensor[3:].any(), f"{name}, slot {beyond}"
            others = [slot for slot in range(POOL) if slot != 1]
            assert torch.equal(calls.given["state"][others], before[0][others])
            assert torch.equal(calls.given["conv_state"][others], before[1][others])
        rows = _decode(device, (beyond, 1)).decode()[0]
        assert not rows[0].any() and rows[1].any()
    beyond = torch.tensor([2, POOL], dtype=torch.int32, device=device)
    expect(f"slots must be below the pool's {POOL} slots", checks.check_slots, "GDN", beyond, POOL)


def case_duplicate_indices(device: str) -> None:
    """A race that only the check tells; slots of padding may repeat."""
    twice = torch.tensor([2, 3, 2], dtype=torch.int32, device=device)
    expect("got [2] more than once in slots", checks.check_slots, "GDN", twice, POOL)
    checks.check_slots("GDN", torch.tensor([0, 0, -1, -1, 5], device=device), POOL, null_slot=0)
    calls = _decode(device, (3, 3))
    step = GdnDecode(HEADS, **calls.layer.weights(), null_slot=0)
    out = poisoned(2, 2, 64, dtype=calls.dtype, device=device)
    names = ("mixed_qkv", "a", "b", "conv_state", "state", "slots")
    expect("a slot of its own", step, *[calls.given[name] for name in names], out, check=True)
    assert bool(out.isnan().all()), "refused before anything is written"


def case_nan_in_a_padded_row(device: str) -> None:
    """Zero there, and nowhere NaN."""
    for name, calls, call in _each(device, slots=(0, 1)):
        for given in ("mixed_qkv", "a", "b", "q", "k", "v", "g", "beta"):
            calls.given[given][:3] = float("nan")
        for tensor in call():
            assert not tensor[:3].any() and bool(tensor.isfinite().all()) and tensor[3:].any(), name
        assert bool(calls.given["state"].isfinite().all()) and bool(calls.given["conv_state"].isfinite().all())
    calls = _decode(device, (0, 1))
    for given in ("mixed_qkv", "a", "b"):
        calls.given[given][0] = float("nan")
    rows = calls.decode()[0]
    assert not rows[0].any() and bool(rows.isfinite().all()) and rows[1].any()
