"""`GdnDecode` against the reference."""

from __future__ import annotations

from dataclasses import replace
from math import gcd

import torch

from hardpoint_kernels import KernelRefused
from hardpoint_kernels.gdn import reference
from hardpoint_kernels.gdn.configs import Config
from hardpoint_kernels.gdn.decode import GdnDecode
from hardpoint_kernels.gdn.heads import Heads
from support.kernel_cases.inputs import Layer, close, half_of, make_layer, poisoned, tokens

SMALL = Heads(2, 4, 32, 32)


def bound_of(dtype: torch.dtype) -> float:
    return {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 5e-3}[dtype]


def run(
    device: str,
    heads: Heads,
    layer: Layer,
    given: dict[str, torch.Tensor],
    slots: torch.Tensor,
    *,
    norm: bool,
    config: Config | None = None,
    order: int = 0,
    **batch: torch.Tensor,
) -> tuple[torch.Tensor, Layer]:
    """Output and layer (with its states) after one step on `device`."""
    there = layer.to(device)
    step = GdnDecode(
        heads, **there.weights(), norm_weight=there.norm_weight if norm else None, config=config, program_order=order
    )
    out = poisoned(given["a"].shape[0], heads.num_v_heads, heads.head_v_dim, dtype=given["a"].dtype, device=device)
    step(
        given["mixed_qkv"].to(device),
        given["a"].to(device),
        given["b"].to(device),
        there.conv_state,
        there.state,
        slots.to(device),
        out,
        z=given["z"].to(device) if norm else None,
        **{name: tensor.to(device) for name, tensor in batch.items()},
    )
    assert not bool(step._arrivals.any()), "a counter was left behind"
    return out, there


def compare(
    device: str, heads: Heads, layer: Layer, given: dict[str, torch.Tensor], slots: torch.Tensor, *, norm: bool,
    config: Config | None = None, order: int = 0, **batch: torch.Tensor,
) -> None:  # fmt: skip
    """Outputs and both states agree with the reference; slots that nobody has are untouched bit by bit."""
    expected = layer.to("cpu")
    wanted = reference.decode(
        heads, given["mixed_qkv"], given["a"], given["b"], expected.A_log, expected.dt_bias, expected.conv_state,
        expected.conv_weight, expected.conv_bias, expected.state, slots, z=given["z"] if norm else None,
        norm_weight=expected.norm_weight if norm else None, dtype=torch.float64, **batch,
    )  # fmt: skip
    found, there = run(device, heads, layer, given, slots, norm=norm, config=config, order=order, **batch)
    limit = bound_of(given["a"].dtype)
    close(found, wanted, limit, "output")
    close(there.state, expected.state, max(1e-5, bound_of(layer.state.dtype)), "state")
    assert torch.equal(there.conv_state.cpu(), expected.conv_state), "convolution windows differ"
    for slot in set(range(layer.state.shape[0])) - set(slots.flatten().tolist()):
        assert torch.equal(there.state[slot].cpu(), layer.state[slot]), f"slot {slot} was touched"


def case_block_sizes(device: str) -> None:
    """All ways to cut the rows: parts of a head, a head, all heads of a k head; more than one reader of a window."""
    dtype = half_of(device)
    for block, warps in ((16, 1), (32, 2), (64, 4)):
        for norm in (False, True):
            if norm and block < 32:
                continue
            config = Config({"BR": block, "KI": 16}, warps)
            layer = make_layer(SMALL, dtype, bias=norm)
            slots = torch.tensor([5, 2], dtype=torch.int32)
            compare(device, SMALL, layer, tokens(SMALL, 2, dtype), slots, norm=norm, config=config)
    parts = Config({"BR": 32, "SR": 8, "KI": 16}, 1, num_stages=3)
    compare(device, SMALL, layer, tokens(SMALL, 2, dtype), slots, norm=True, config=parts)


def case_windows_from_registers(device: str) -> None:
    """The other two ways to write windows: every cut of the rows, padding, half states, views, speculative tokens."""
    dtype = half_of(device)
    for window in (1, 2):
        for rows, part, ki, warps, norm in (
            (16, 16, 16, 1, False), (32, 32, 32, 2, True), (64, 64, 16, 4, True), (32, 8, 16, 1, True),
        ):  # fmt: skip
            config = Config({"BR": rows, "KI": ki, "SR": part, "WINDOW": window}, warps)
            layer = make_layer(SMALL, dtype, bias=norm, state_dtype=torch.bfloat16 if rows == 32 else torch.float32)
            given = tokens(SMALL, 4, dtype)
            for tensor in given.values():
                tensor[1:3] = float("nan")
            compare(
                device, SMALL, layer, given, torch.tensor([5, -1, 8, 2], dtype=torch.int32), norm=norm, config=config
            )
        config = Config({"BR": 16, "KI": 16, "WINDOW": window}, 1)
        for heads in (Heads(2, 2, 32, 16), Heads(1, 3, 16, 32)):  # one reader of a window, and several
            layer = make_layer(heads, dtype)
            layer = replace(layer, conv_state=layer.conv_state.transpose(1, 2).contiguous().transpose(1, 2))
            slots = torch.tensor([3, 1], dtype=torch.int64)
            compare(device, heads, layer, tokens(heads, 2, dtype), slots, norm=False, config=config)
        layer = make_layer(SMALL, dtype, pool=12, rows=3 + 2)
        slots = torch.tensor([[1, 2, 3], [4, 5, -1], [7, 8, 9]], dtype=torch.int32)
        batch = {
            "query_start_loc": torch.tensor([0, 3, 5, 5], dtype=torch.int32),
            "num_accepted_tokens": torch.tensor([2, 1, 1], dtype=torch.int32),
        }
        compare(device, SMALL, layer, tokens(SMALL, 6, dtype), slots, norm=False, config=config, **batch)


def case_head_ratios(device: str) -> None:
    """HV / H of 1, 2, 3 and 4, odd head counts, K and V that differ."""
    dtype = half_of(device)
    for heads in (Heads(2, 2, 32, 16), Heads(1, 3, 16, 32), Heads(1, 4, 64, 16)):
        layer = make_layer(heads, dtype)
        slots = torch.tensor([3, 1], dtype=torch.int64)
        compare(device, heads, layer, tokens(heads, 2, dtype), slots, norm=True)


def case_dtypes(device: str) -> None:
    """float32 in, half in; state float32 or half."""
    for dtype in (torch.float32, half_of(device)):
        for state in (torch.float32, half_of(device)):
            layer = make_layer(SMALL, dtype, state_dtype=state)
            slots = torch.tensor([1, 4], dtype=torch.int32)
            compare(device, SMALL, layer, tokens(SMALL, 2, dtype), slots, norm=False)


def case_padding(device: str) -> None:
    """A negative slot, the null slot, one past the pool: zero rows, even for inputs of NaN; nothing touched."""
    dtype = half_of(device)
    layer = make_layer(SMALL, dtype)
    given = tokens(SMALL, 5, dtype)
    slots = torch.tensor([3, -1, 8, 1000, 2], dtype=torch.int32)
    for tensor in given.values():
        tensor[1:4] = float("nan")
    compare(device, SMALL, layer, given, slots, norm=True)
    there = layer.to(device)
    step = GdnDecode(SMALL, **there.weights(), null_slot=0)
    out = poisoned(2, 4, 32, dtype=dtype, device=device)
    rows = {name: tensor[[0, 4]].to(device) for name, tensor in given.items()}
    slots = torch.tensor([0, 2], dtype=torch.int32, device=device)
    step(rows["mixed_qkv"], rows["a"], rows["b"], there.conv_state, there.state, slots, out)
    assert not out[0].any() and torch.equal(there.state[0].cpu(), layer.state[0])
    assert out[1].any() and not out.isnan().any()


def case_speculative(device: str) -> None:
    """Several tokens per request, some accepted, one request without tokens, and rows past the last token."""
    dtype = half_of(device)
    layer = make_layer(SMALL, dtype, pool=12, rows=3 + 2)
    slots = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, -1], [9, 10, 11]], dtype=torch.int32)
    batch = {
        "query_start_loc": torch.tensor([0, 3, 5, 5, 6], dtype=torch.int32),
        "num_accepted_tokens": torch.tensor([2, 1, 1, 3], dtype=torch.int32),
    }
    for norm in (False, True):
        compare(device, SMALL, layer, tokens(SMALL, 9, dtype), slots, norm=norm, **batch)


def case_strided(device: str) -> None:
    """Views as a host hands them over: a slice of the projection, pages between slots, the other layout of windows."""
    dtype = half_of(device)
    layer = make_layer(SMALL, dtype)
    given = tokens(SMALL, 2, dtype)
    slots = torch.tensor([6, 1], dtype=torch.int32)
    wanted, plain = run(device, SMALL, layer, given, slots, norm=True)
    there = layer.to(device)
    wide = torch.randn(2, SMALL.channels + 128, device=device).to(dtype)
    wide[:, : SMALL.channels] = given["mixed_qkv"].to(device)
    wide[:, SMALL.channels :] = given["z"].flatten(1).to(device)
    pages = torch.full((8, 4 * 32 * 32 + 64), float("nan"), device=device)
    state = torch.as_strided(pages, there.state.shape, (pages.stride(0), 32 * 32, 32, 1))
    state.copy_(there.state)
    conv_state = there.conv_state.transpose(1, 2).contiguous().transpose(1, 2)
    step = GdnDecode(SMALL, **there.weights(), norm_weight=there.norm_weight)
    out = poisoned(2, 4, 32, dtype=dtype, device=device)
    step(
        wide[:, : SMALL.channels], given["a"].to(device), given["b"].to(device), conv_state, state, slots.to(device),
        out, z=wide[:, SMALL.channels :].unflatten(1, (4, 32)),
    )  # fmt: skip
    close(out, wanted, bound_of(dtype), "output")  # other strides are other code: sums may be taken in another order
    close(state, plain.state, 1e-6, "state")
    assert torch.equal(conv_state, plain.conv_state)
    assert bool(pages[:, 4 * 32 * 32 :].isnan().all()), "between the slots"


def case_program_order(device: str) -> None:
    """Any order of programs gives the same bits: nobody's window is overwritten before all have read it."""
    dtype = half_of(device)
    layer = make_layer(SMALL, dtype)
    given, slots = tokens(SMALL, 2, dtype), torch.tensor([1, 2], dtype=torch.int32)
    for rows, window in ((8, 0), (16, 1), (16, 2)):
        any_order(device, layer, given, slots, Config({"BR": rows, "KI": 16, "WINDOW": window}, 1))


def any_order(device: str, layer: Layer, given: dict[str, torch.Tensor], slots: torch.Tensor, config: Config) -> None:
    """The same bits in the natural order of programs and in shuffled ones."""
    programs, orders = 2 * 4 * 32 // config.blocks["BR"], (7,) if device == "cpu" else (3, 7, 13, 31, 61)
    first, plain = run(device, SMALL, layer, given, slots, norm=False, config=config)
    for order in [n for n in orders if gcd(n, programs) == 1]:
        out, there = run(device, SMALL, layer, given, slots, norm=False, config=config, order=order)
        assert torch.equal(out, first) and torch.equal(there.state, plain.state), f"order {order}"
        assert torch.equal(there.conv_state, plain.conv_state), f"order {order}: windows"


def case_empty(device: str) -> None:
    """No requests: nothing happens."""
    dtype = half_of(device)
    layer = make_layer(SMALL, dtype)
    out, there = run(device, SMALL, layer, tokens(SMALL, 0, dtype), torch.zeros(0, dtype=torch.int32), norm=True)
    assert out.shape == (0, 4, 32) and torch.equal(there.state.cpu(), layer.state)


def case_refusals(device: str) -> None:
    """Each wrong argument is one sentence with its name, and nothing was written."""
    dtype = half_of(device)
    layer = make_layer(SMALL, dtype).to(device)
    given = {name: tensor.to(device) for name, tensor in tokens(SMALL, 2, dtype).items()}
    step = GdnDecode(SMALL, **layer.weights(), max_requests=4)
    out = poisoned(2, 4, 32, dtype=dtype, device=device)
    slots = torch.tensor([1, 2], dtype=torch.int32, device=device)
    x, a, b = given["mixed_qkv"], given["a"], given["b"]
    good = (x, a, b, layer.conv_state, layer.state, slots, out)
    for index, bad, words in (
        (0, x[:, :-1], "mixed_qkv must be"),
        (0, x.double(), "mixed_qkv must be bfloat16 or float16 or float32"),
        (0, x.t().contiguous().t(), "mixed_qkv must be contiguous"),
        (1, a[:1], "a must be"),
        (3, layer.conv_state[:, :2], "conv_state must keep 3 rows"),
        (3, layer.conv_state.double(), "conv_state must be"),
        (4, layer.state.transpose(2, 3), "last 3 dimension(s) of state"),
        (4, layer.state.to(torch.float64), "state must be float32 or bfloat16"),
        (5, slots.long()[:1], "slots is [tokens]"),
        (5, slots.float(), "slots must be int32 or int64"),
        (6, out.transpose(1, 2), "out must be"),
    ):
        expect(words, step, *good[:index], bad, *good[index + 1 :])
    expect("z and norm_weight go together", step, *good, z=given["z"])
    expect("below the pool's 8 slots", step, *good[:5], slots + 7, out, check=True)
    expect("a slot of its own", step, *good[:5], slots * 0 + 3, out, check=True)
    many = {name: tensor.repeat(3, *[1] * (tensor.dim() - 1)) for name, tensor in given.items()}
    expect(
        "at most 4 requests", step, many["mixed_qkv"], many["a"], many["b"], layer.conv_state, layer.state,
        slots.repeat(3), out.repeat(3, 1, 1),
    )  # fmt: skip
    assert bool(out.isnan().all())
    expect("requires K in", GdnDecode, Heads(2, 4, 48, 32), **layer.weights())
    expect("HV to be a multiple of H", GdnDecode, Heads(2, 3, 32, 32), **layer.weights())
    wrong = layer.weights() | {"conv_weight": layer.conv_weight[:, :3]}
    expect("width 4, got 3", GdnDecode, SMALL, **wrong)


def expect(words: str, call: object, *args: object, **kwargs: object) -> None:
    """`call` is refused with a sentence that holds `words`."""
    try:
        call(*args, **kwargs)  # type: ignore[operator]
    except KernelRefused as error:
        assert words in str(error), f"{words!r} is not in: {error}"
    else:
        raise AssertionError(f"was not refused; expected: {words}")
