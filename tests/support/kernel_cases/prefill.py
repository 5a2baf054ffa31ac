"""`GdnPrepare` and `plan_chunks` against their references."""

from __future__ import annotations

import torch

from hardpoint_kernels.gdn import reference
from hardpoint_kernels.gdn.configs import Config
from hardpoint_kernels.gdn.heads import Heads
from hardpoint_kernels.gdn.plan import CHUNK, plan_chunks
from hardpoint_kernels.gdn.prefill_conv import GdnPrepare
from support.kernel_cases.decode import bound_of, expect
from support.kernel_cases.inputs import close, half_of, make_layer, tokens

SMALL = Heads(1, 2, 32, 32)
LENGTHS = {
    "one": (70,), "short": (1, 2, 3, 4), "empty between": (5, 0, 65), "exact chunks": (64, 128), "none": (0,),
}  # fmt: skip


def case_plan(device: str) -> None:
    """Every token is in exactly one chunk, rows past the end are the sequence N, and the bound holds."""
    for lengths in [*LENGTHS.values(), (63, 1, 64, 65, 200)]:
        for spare in (0, 1, 70, 200):
            starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32, device=device)
            total = sum(lengths) + spare
            plan = plan_chunks(starts, total)
            seen = torch.zeros(total, dtype=torch.int32)
            for sequence, number in plan.of_sequence.tolist():
                if sequence >= 0:
                    begin, end = plan.starts[sequence].item(), plan.starts[sequence + 1].item()
                    rows = slice(begin + number * CHUNK, min(begin + (number + 1) * CHUNK, end))
                    assert rows.start < rows.stop
                    seen[rows] += 1
            assert bool((seen == 1).all()), (lengths, spare)
            firsts = plan.first_chunk.tolist()
            for sequence, length in enumerate([*lengths, spare]):
                assert firsts[sequence + 1] - firsts[sequence] == -(-length // CHUNK)
    expect("query_start_loc must be", plan_chunks, torch.zeros(2, device=device), 0)


def compare(device: str, lengths: tuple[int, ...], *, spare: int = 0, config: Config | None = None, bias: bool = False,
            slots: list[int] | None = None, heads: Heads = SMALL) -> None:  # fmt: skip
    """Outputs, zero rows and windows agree with the reference."""
    dtype, count = half_of(device), len(lengths)
    layer, given = make_layer(heads, dtype, bias=bias), tokens(heads, sum(lengths) + spare, dtype)
    starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    if spare:
        for tensor in given.values():
            tensor[sum(lengths) :] = float("nan")
    chosen = torch.tensor(slots or [5, 2, 7, 1, 3][:count], dtype=torch.int32)
    initial = torch.tensor([n % 2 == 0 for n in range(count)])
    expected, there = layer.to("cpu"), layer.to(device)
    wanted = reference.prefill_prepare(
        heads, given["mixed_qkv"], given["a"], given["b"], expected.A_log, expected.dt_bias, expected.conv_state,
        expected.conv_weight, expected.conv_bias, chosen, initial, starts, dtype=torch.float64,
    )  # fmt: skip
    prepare = GdnPrepare(heads, **there.weights(), config=config)
    moved = [given[name].to(device) for name in ("mixed_qkv", "a", "b")]
    plan = plan_chunks(starts.to(device), sum(lengths) + spare)
    found = prepare(*moved, there.conv_state, chosen.to(device), initial.to(device), plan)
    for name, mine, right in zip(found._fields, found, wanted, strict=True):
        close(mine, right, bound_of(mine.dtype), f"{name} of {lengths}")
        assert not mine[sum(lengths) :].any(), f"{name}: rows past the end"
    assert torch.equal(there.conv_state.cpu(), expected.conv_state), f"windows of {lengths}"


def case_lengths(device: str) -> None:
    """Short sequences keep part of their old window; sequences of no tokens keep all of it."""
    for lengths in LENGTHS.values():
        compare(device, lengths, bias=len(lengths) == 1)


def case_tail_and_padding(device: str) -> None:
    """Rows past the end and sequences of padding are zero, even where the inputs are NaN."""
    compare(device, (5, 30), spare=70)
    compare(device, (20, 30, 3), slots=[3, -1, 99], spare=3)


def case_block_sizes(device: str) -> None:
    """Tiles of all heights, K and V of 16 to 64, HV that is no power of two."""
    for height, warps in ((8, 1), (32, 2), (64, 4)):
        compare(device, (70, 9), config=Config({"BT": height}, warps))
    compare(device, (20,), heads=Heads(1, 3, 16, 16))


def case_refusals(device: str) -> None:
    """Each wrong argument is one sentence with its name."""
    dtype = half_of(device)
    layer = make_layer(SMALL, dtype).to(device)
    given = {name: tensor.to(device) for name, tensor in tokens(SMALL, 6, dtype).items()}
    plan = plan_chunks(torch.tensor([0, 6], dtype=torch.int32, device=device), 6)
    prepare = GdnPrepare(SMALL, **layer.weights())
    slots, initial = torch.ones(1, dtype=torch.int32, device=device), torch.ones(1, dtype=torch.bool, device=device)
    good = (given["mixed_qkv"], given["a"], given["b"], layer.conv_state, slots, initial, plan)
    for index, bad, words in (
        (0, given["mixed_qkv"][:5], "mixed_qkv must be"),
        (2, given["b"].double(), "b must be bfloat16 or float16 or float32"),
        (3, layer.conv_state[:, :, :-1], "conv_state must be"),
        (4, slots.repeat(2), "slots must be"),
        (5, initial.int(), "has_initial_state must be bool"),
    ):
        expect(words, prepare, *good[:index], bad, *good[index + 1 :])
    narrow = make_layer(Heads(1, 2, 32, 16), dtype)
    expect("requires K = V", GdnPrepare, Heads(1, 2, 32, 16), **narrow.weights())
