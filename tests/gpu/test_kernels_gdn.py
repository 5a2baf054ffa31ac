"""The GDN kernels compiled, on one GPU: the same cases as under the interpreter, real sizes, and a great many replays.

Run with: pytest -m gpu tests/gpu/test_kernels_gdn.py
"""

from __future__ import annotations

import importlib
import importlib.util

import pytest
import torch

pytestmark = pytest.mark.gpu
if not torch.cuda.is_available() or importlib.util.find_spec("triton") is None:
    pytest.skip("needs a CUDA GPU and Triton: run where they are", allow_module_level=True)

from hardpoint_kernels.gdn.configs import Config  # noqa: E402
from hardpoint_kernels.gdn.decode import GdnDecode  # noqa: E402
from hardpoint_kernels.gdn.heads import Heads  # noqa: E402
from support.kernel_cases import bad, chunk, decode, layer, pieces, prefill, rows  # noqa: E402
from support.kernel_cases.inputs import make_layer, tokens  # noqa: E402

CASES = [
    pytest.param(getattr(module, name), id=f"{module.__name__.rpartition('.')[2]}.{name}")
    for module in (decode, prefill, chunk, layer, pieces, rows, bad)
    for name in vars(module)
    if name.startswith("case_")
]
REAL = Heads(16, 32)


@pytest.mark.parametrize("case", CASES)
def test_case(case: object) -> None:
    case("cuda")  # type: ignore[operator]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("heads", [REAL, Heads(4, 8), Heads(16, 48)], ids=str)
def test_decode_of_real_size(heads: Heads, norm: bool) -> None:
    layer = make_layer(heads, torch.bfloat16, pool=6)
    slots = torch.tensor([5, 2, 3], dtype=torch.int32)
    decode.compare("cuda", heads, layer, tokens(heads, 3, torch.bfloat16), slots, norm=norm)


@pytest.mark.parametrize("lengths", [(300,), (64, 1, 130)], ids=str)
def test_prefill_of_real_size(lengths: tuple[int, ...]) -> None:
    prefill.compare("cuda", lengths, heads=REAL, spare=5)
    chunk.compare("cuda", lengths, heads=Heads(2, 4), spare=5)


@pytest.mark.parametrize("window", [0, 1, 2])
@pytest.mark.parametrize("requests", [1, 256])
def test_ten_thousand_replays_in_any_order_of_programs(requests: int, window: int) -> None:
    """A window that is overwritten while another program still reads it changes outputs, for good: the state keeps it.

    Two pools take the same 10,000 steps, one in the natural order of programs, the other in shuffled ones; every output
    is compared bit by bit on the device.
    """
    layer = make_layer(REAL, torch.bfloat16, pool=requests + 1).to("cuda")
    given = {name: tensor.cuda() for name, tensor in tokens(REAL, requests, torch.bfloat16).items()}
    slots = torch.randperm(requests, device="cuda").to(torch.int32) + 1
    config = Config({"BR": 32, "KI": 32, "WINDOW": window}, 2)  # eight programs read each window of q and k
    states = [(layer.conv_state.clone(), layer.state.clone()) for _ in range(2)]
    outs = [torch.empty(requests, 32, 128, dtype=torch.bfloat16, device="cuda") for _ in range(2)]
    differing = torch.zeros((), dtype=torch.int64, device="cuda")
    for order in (3, 77, 1025, 4097, 30001):
        steps = [GdnDecode(REAL, **layer.weights(), config=config, program_order=n) for n in (0, order)]

        def both(steps: list[GdnDecode] = steps) -> None:
            for step, (conv_state, state), out in zip(steps, states, outs, strict=True):
                step(given["mixed_qkv"], given["a"], given["b"], conv_state, state, slots, out)
            differing.add_((outs[0] != outs[1]).sum())
            given["mixed_qkv"].copy_(given["mixed_qkv"].roll(1, 1))  # another input at every step

        both()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            both()
        for _ in range(2000):
            graph.replay()
        torch.cuda.synchronize()
        assert int(differing) == 0, f"order {order}: {int(differing)} elements differ"
        for mine, theirs in zip(*states, strict=True):
            assert torch.equal(mine, theirs), f"order {order}"
    assert bool(outs[0].isfinite().all()) and bool(outs[0].any())
