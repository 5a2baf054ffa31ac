"""`ChunkRule` against the token-by-token rule."""

from __future__ import annotations

import torch

from hardpoint_kernels.gdn import configs, reference
from hardpoint_kernels.gdn.chunk import ChunkRule
from hardpoint_kernels.gdn.configs import Config
from hardpoint_kernels.gdn.heads import Heads
from hardpoint_kernels.gdn.plan import plan_chunks
from support.kernel_cases.decode import expect
from support.kernel_cases.inputs import close, half_of, poisoned

SMALL = Heads(1, 2, 64, 64)
BOUND = {torch.float16: 2e-3, torch.bfloat16: 1e-2}


def make(
    heads: Heads, count: int, dtype: torch.dtype, *, seed: int = 3, decay: float = 1.0
) -> tuple[torch.Tensor, ...]:
    """q, k, v, g, beta as a layer makes them, on the host; `decay` scales the log decays."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    q, k = (reference.l2norm(normal(count, heads.num_k_heads, heads.head_k_dim)).to(dtype) for _ in range(2))
    v = normal(count, heads.num_v_heads, heads.head_v_dim).to(dtype)
    g = -torch.nn.functional.softplus(normal(count, heads.num_v_heads)) * decay
    return q, k, v, g, normal(count, heads.num_v_heads).sigmoid()


def compare(
    device: str, lengths: tuple[int, ...], *, spare: int = 0, heads: Heads = SMALL, slots: list[int] | None = None,
    given: tuple[torch.Tensor, ...] | None = None, state_dtype: torch.dtype = torch.float32,
    scan: Config | None = None, prepare: Config | None = None, split: int | None = None,
) -> None:  # fmt: skip
    """Outputs and states agree with the reference; padding is zero; other slots are untouched."""
    dtype, count = half_of(device), len(lengths)
    given = given or make(heads, sum(lengths) + spare, dtype)
    if spare:
        for tensor in given:
            tensor[sum(lengths) :] = float("nan")
    starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    chosen = torch.tensor(slots or [5, 2, 6, 1, 3][:count], dtype=torch.int32)
    initial = torch.tensor([n % 2 == 0 for n in range(count)])
    generator = torch.Generator().manual_seed(9)
    shape = (7, heads.num_v_heads, heads.head_v_dim, heads.head_k_dim)
    before = (torch.randn(*shape, generator=generator) * 0.3).to(state_dtype)
    expected, there = before.clone(), before.to(device, copy=True)
    wanted = reference.chunk_rule(*given, expected, chosen, initial, starts, scale=heads.scale, dtype=torch.float64)
    out = poisoned(*given[2].shape, dtype=dtype, device=device)
    rule = ChunkRule(heads, prepare=prepare, scan=scan, split=split)
    plan = plan_chunks(starts.to(device), sum(lengths) + spare)
    rule(*(tensor.to(device) for tensor in given), there, chosen.to(device), initial.to(device), plan, out)
    close(out, wanted, BOUND[dtype], f"output of {lengths}")
    close(there, expected, BOUND[dtype], f"states of {lengths}")
    assert not out[sum(lengths) :].any(), "rows past the end"
    used = {slot for slot, length in zip(chosen.tolist(), lengths, strict=True) if length}
    for slot in set(range(7)) - used:
        assert torch.equal(there[slot].cpu(), before[slot]), f"slot {slot} was touched"


def case_lengths(device: str) -> None:
    """One token, whole chunks, more than one chunk, no tokens."""
    for lengths in ((1,), (64,), (65, 3), (5, 0, 130), (200,)):
        compare(device, lengths)


def case_tail_and_padding(device: str) -> None:
    """Rows past the end and sequences of padding are zero, even where the inputs are NaN."""
    compare(device, (20,), spare=70)
    compare(device, (20, 70, 3), slots=[3, -1, 99], spare=1)


def case_head_sizes(device: str) -> None:
    """K, V of 64 and 128; one, two and three v heads per k head; two k heads."""
    for heads in (Heads(1, 1, 128, 64), Heads(1, 3, 64, 128), Heads(2, 4, 64, 64)):
        compare(device, (70,), heads=heads)


def case_state_dtypes(device: str) -> None:
    """A state in half precision."""
    compare(device, (80,), state_dtype=half_of(device))


def case_block_sizes(device: str) -> None:
    """Rows per program and depth of pipelining."""
    heads = Heads(1, 1, 64, 128)
    for rows, stages, warps in ((64, 1, 4), (128, 2, 8)):
        scan, prepare = Config({"BV": rows, "STAGES": stages}, warps), Config({"SMALL": rows == 64}, warps, 1)
        compare(device, (130,), heads=heads, scan=scan, prepare=prepare)


def case_split(device: str) -> None:
    """Sequences in segments: a long one, ones with fewer chunks than segments, padding, none with tokens, a tail."""
    compare(device, (500,), split=3)
    compare(device, (300, 0, 70, 5), slots=[5, 2, -1, 1], split=4, spare=9)
    compare(device, (200,), slots=[4], heads=Heads(1, 2, 128, 64), split=2, state_dtype=half_of(device))
    q, k, v, g, beta = make(SMALL, 400, half_of(device), decay=0.02)  # a state that lasts through every segment
    compare(device, (260, 140), given=(q, k[:1].expand_as(k).contiguous(), v, g, beta), split=4)
    expect("split must be 1 or more", ChunkRule, SMALL, split=0)


def case_split_is_by_table(device: str) -> None:
    """Only what was measured is taken, and only where segments are long enough to pay."""
    row = {"shape": {"heads": 2, "sequences": 1, "tokens": 1024}, "config": {"blocks": {"SPLIT": 4}, "num_warps": 4}}
    there = torch.device(device)
    plans = [plan_chunks(torch.tensor([0, n], dtype=torch.int32), n) for n in (2048, 640)]
    before = configs._table
    try:
        for us, wanted in ((10.0, [4, 1]), (None, [1, 1])):
            table = {configs._device_name(there): {"chunk_split": [{**row, "us": us}]}}
            configs._table = lambda table=table: table  # type: ignore[assignment]
            assert [ChunkRule(SMALL)._segments(plan, there) for plan in plans] == wanted
    finally:
        configs._table = before


def case_hard_values(device: str) -> None:
    """The same key at every token, with and without decay; decays of exp(-30) a token; beta of 0 and of 1."""
    dtype = half_of(device)
    for decay, beta in ((0.0, 1.0), (0.01, 0.99), (30.0, 1.0), (1.0, 0.0)):
        q, k, v, g, rate = make(SMALL, 100, dtype, decay=decay)
        same = k[:1].expand_as(k).contiguous()
        compare(device, (100,), given=(q, same, v, g, torch.full_like(rate, beta)))


def case_refusals(device: str) -> None:
    """Each wrong argument is one sentence with its name."""
    dtype = half_of(device)
    given = [tensor.to(device) for tensor in make(SMALL, 8, dtype)]
    plan = plan_chunks(torch.tensor([0, 8], dtype=torch.int32, device=device), 8)
    state = torch.zeros(4, 2, 64, 64, device=device)
    slots, initial = torch.ones(1, dtype=torch.int32, device=device), torch.ones(1, dtype=torch.bool, device=device)
    good = (*given, state, slots, initial, plan, torch.empty_like(given[2]))
    rule = ChunkRule(SMALL)
    for index, bad, words in (
        (0, given[0].float(), "q must be bfloat16 or float16"),
        (0, given[0][:, :, :32], "q must be [tokens, H, K]"),
        (1, given[1].bfloat16() if dtype == torch.float16 else given[1].half(), "k must be"),
        (3, given[3].double(), "g must be float32"),
        (5, state.transpose(2, 3), "state must be contiguous"),
        (6, slots.float(), "slots must be int32 or int64"),
        (9, good[9][:, :1], "out must be"),
    ):
        expect(words, rule, *good[:index], bad, *good[index + 1 :])
    expect("requires K and V of 64 or 128", ChunkRule, Heads(1, 2, 32, 64))
