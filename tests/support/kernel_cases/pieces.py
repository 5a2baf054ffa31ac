"""`gdn_gating` and `causal_conv1d` against their references."""

from __future__ import annotations

import torch

from hardpoint_kernels.gdn import reference
from hardpoint_kernels.gdn.heads import Heads
from hardpoint_kernels.gdn.pieces import causal_conv1d, gdn_gating
from support.kernel_cases.decode import bound_of, expect
from support.kernel_cases.inputs import close, half_of, make_layer, tokens

SMALL = Heads(1, 3, 32, 32)


def case_gating(device: str) -> None:
    """Heads that are no power of two, arguments far past softplus's threshold, no tokens."""
    dtype = half_of(device)
    layer, given = make_layer(SMALL, dtype), tokens(SMALL, 37, dtype)
    given["a"][0], given["a"][1] = 60.0, -60.0
    wanted = reference.gating(given["a"], given["b"], layer.A_log, layer.dt_bias, dtype=torch.float64)
    moved = [tensor.to(device) for tensor in (given["a"], given["b"], layer.A_log, layer.dt_bias)]
    for mine, right in zip(gdn_gating(*moved), wanted, strict=True):
        close(mine, right, 1e-6, "gates")
        assert mine.dtype == torch.float32
    assert gdn_gating(moved[0][:0], moved[1][:0], *moved[2:])[0].shape == (0, 3)


def case_prefill(device: str) -> None:
    """Sequences shorter than the window, of no tokens, of padding; rows past the end."""
    dtype = half_of(device)
    lengths, slots = (1, 0, 5, 2, 9), [3, 1, -1, 6, 2]
    layer, x = make_layer(SMALL, dtype, bias=True), tokens(SMALL, 20, dtype)["mixed_qkv"]
    starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    initial, there = torch.tensor([True, True, True, False, True]), layer.to(device)
    out = causal_conv1d(
        x.to(device), there.conv_weight, there.conv_bias, there.conv_state,
        torch.tensor(slots, dtype=torch.int32, device=device), starts.to(device), has_initial_state=initial.to(device),
    ).cpu()  # fmt: skip
    for n, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
        rows = slice(int(starts[n]), int(starts[n + 1]))
        if slot < 0:
            assert not out[rows].any()
            continue
        window = layer.conv_state[slot] * initial[n]
        if length:
            right = reference.conv_sequence(x[rows], window, layer.conv_weight, layer.conv_bias, dtype=torch.float64)
            close(out[rows], right, bound_of(dtype), f"sequence {n}")
            window = torch.cat([window, x[rows]])[-3:]
            assert torch.equal(there.conv_state[slot].cpu(), window), f"window {n}"
        else:
            assert torch.equal(there.conv_state[slot].cpu(), layer.conv_state[slot])
    assert not out[int(starts[-1]) :].any()


def case_update(device: str) -> None:
    """Steps of one and of several tokens: the windows are those that the fused decode step leaves."""
    dtype = half_of(device)
    layer, x = make_layer(SMALL, dtype, rows=3 + 2), tokens(SMALL, 6, dtype)["mixed_qkv"]
    starts, accepted = torch.tensor([0, 3, 3, 4], dtype=torch.int32), torch.tensor([3, 1, 2], dtype=torch.int32)
    slots, there = torch.tensor([4, 1, 7], dtype=torch.int64), layer.to(device)
    out = causal_conv1d(
        x.to(device), there.conv_weight, None, there.conv_state, slots.to(device), starts.to(device),
        num_accepted_tokens=accepted.to(device), silu=True,
    ).cpu()  # fmt: skip
    for n, slot in ((0, 4), (2, 7)):
        rows, back = slice(int(starts[n]), int(starts[n + 1])), int(accepted[n]) - 1
        window = layer.conv_state[slot, back : back + 3]
        close(out[rows], reference.conv_sequence(x[rows], window, layer.conv_weight, None, dtype=torch.float64),
              bound_of(dtype), f"sequence {n}")  # fmt: skip
        kept = torch.cat([window[1:], x[rows]])
        assert torch.equal(there.conv_state[slot, : len(kept)].cpu(), kept)
    assert torch.equal(there.conv_state[1].cpu(), layer.conv_state[1]) and not out[4:].any()


def case_refusals(device: str) -> None:
    """Each wrong argument is one sentence with its name."""
    dtype = half_of(device)
    layer = make_layer(SMALL, dtype).to(device)
    x = tokens(SMALL, 4, dtype)["mixed_qkv"].to(device)
    slots, starts = torch.ones(1, dtype=torch.int32, device=device), torch.tensor([0, 4], device=device)
    good = (x, layer.conv_weight, None, layer.conv_state, slots, starts)
    yes = torch.ones(1, dtype=torch.bool, device=device)
    expect("got neither", causal_conv1d, *good)
    expect("got both", causal_conv1d, *good, has_initial_state=yes, num_accepted_tokens=slots)
    expect("width 4, got 3", causal_conv1d, x, layer.conv_weight[:, :3], *good[2:], has_initial_state=yes)
    expect("conv_state must be", causal_conv1d, *good[:3], layer.conv_state[:, :2], *good[4:], has_initial_state=yes)
    expect("query_start_loc must be", causal_conv1d, *good[:5], starts[:1], has_initial_state=yes)
    expect("b must be", gdn_gating, x[:, :3], x[:, :2], layer.A_log, layer.dt_bias)
