"""Field report 1 for every GDN kernel of stock vLLM and fla: tensors on cuda:1, a thread whose current device is 0.

Each case runs three times on equal inputs: with cuda:1 current (what is right), from a thread with cuda:0 current (what
stock does there), and there again with the guard on. Run with: pytest -m gpu tests/gpu, with vLLM and fla on the path.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.gpu
if torch.cuda.device_count() < 2 or importlib.util.find_spec("triton") is None:
    pytest.skip("needs two CUDA GPUs and Triton: run where they are", allow_module_level=True)

from hardpoint import guard  # noqa: E402

H, HV, K, V, LINES, T, B = 2, 4, 128, 128, 8, 96, 4
Case = Callable[["Inputs"], Any]
NO_VLLM = importlib.util.find_spec("vllm") is None
NO_FLA = importlib.util.find_spec("fla") is None
OPS = "vllm.third_party.flash_linear_attention.ops"


class Inputs:
    """The same random tensors at every call, made on the host and moved to cuda:1."""

    device = torch.device("cuda", 1)

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)

    def normal(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.randn(*shape, generator=self._generator).to(dtype).to(self.device)

    def ints(self, *values: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype, device=self.device)

    def gates(self, tokens: int) -> tuple[torch.Tensor, ...]:
        """a, b ``[tokens, HV]``, A_log and dt_bias ``[HV]``."""
        a, b = self.normal(tokens, HV), self.normal(tokens, HV)
        return a, b, self.normal(HV, dtype=torch.float32), self.normal(HV)

    def qkv(self, heads: int) -> tuple[torch.Tensor, ...]:
        """q, k, v ``[1, T, heads, 128]``, g (log decay, fp32) and beta ``[1, T, heads]``."""
        q, k, v = (self.normal(1, T, heads, K) for _ in range(3))
        g = -torch.nn.functional.softplus(self.normal(1, T, heads, dtype=torch.float32))
        return q, k, v, g, self.normal(1, T, heads, dtype=torch.float32).sigmoid()


def vllm_conv_fwd(inputs: Inputs) -> Any:
    from vllm.model_executor.layers.mamba.ops.causal_conv1d import causal_conv1d_fn

    dim = 2 * H * K + HV * V
    x = inputs.normal(T, dim).transpose(0, 1)
    state = inputs.normal(LINES, 3, dim).transpose(1, 2)
    seen = torch.tensor([True, False], device=inputs.device)
    out = causal_conv1d_fn(
        x, inputs.normal(dim, 4), None, state, inputs.ints(0, 40, T), cache_indices=inputs.ints(1, 2),
        has_initial_state=seen, activation="silu",
    )  # fmt: skip
    return out, state


def vllm_conv_update(inputs: Inputs) -> Any:
    from vllm.model_executor.layers.mamba.ops.causal_conv1d import causal_conv1d_update

    dim = 2 * H * K + HV * V
    state = inputs.normal(LINES, 3, dim).transpose(1, 2)
    out = causal_conv1d_update(
        inputs.normal(B, dim), state, inputs.normal(dim, 4), None, "silu", conv_state_indices=inputs.ints(1, 2, 3, 4)
    )
    return out, state


def vllm_packed_decode(inputs: Inputs) -> Any:
    module = importlib.import_module(f"{OPS}.fused_recurrent")
    a, b, log, bias = inputs.gates(B)
    state = inputs.normal(LINES, HV, V, K, dtype=torch.float32)
    out = torch.full((B, 1, HV, V), float("nan"), dtype=torch.bfloat16, device=inputs.device)
    module.fused_recurrent_gated_delta_rule_packed_decode(
        inputs.normal(B, 2 * H * K + HV * V), a, b, log, bias, K**-0.5, state, out, inputs.ints(1, 2, 3, 4), True
    )
    return out, state


def vllm_sigmoid_gating(inputs: Inputs) -> Any:
    module = importlib.import_module(f"{OPS}.fused_sigmoid_gating")
    a, b, log, bias = inputs.gates(B)
    state = inputs.normal(LINES, HV, V, K, dtype=torch.float32)
    q, k = inputs.normal(1, B, H, K), inputs.normal(1, B, H, K)
    out, _ = module.fused_sigmoid_gating_delta_rule_update(
        A_log=log, a=a, b=b, dt_bias=bias, q=q, k=k, v=inputs.normal(1, B, HV, V), initial_state=state,
        inplace_final_state=True, cu_seqlens=inputs.ints(*range(B + 1)), ssm_state_indices=inputs.ints(1, 2, 3, 4),
        use_qk_l2norm_in_kernel=True,
    )  # fmt: skip
    return out, state


def vllm_post_conv(inputs: Inputs) -> Any:
    module = importlib.import_module(f"{OPS}.fused_gdn_prefill_post_conv")
    a, b, log, bias = inputs.gates(T)
    return module.fused_post_conv_prep(inputs.normal(T, 2 * H * K + HV * V), a, b, log, bias, H, K, V)


def vllm_chunk(inputs: Inputs) -> Any:
    module = importlib.import_module(f"{OPS}.chunk")
    q, k, v, g, beta = inputs.qkv(HV)
    return module.chunk_gated_delta_rule(
        q, k, v, g, beta.to(q.dtype), initial_state=inputs.normal(2, HV, V, K, dtype=torch.float32),
        output_final_state=True, cu_seqlens=inputs.ints(0, 40, T), use_qk_l2norm_in_kernel=True,
    )  # fmt: skip


def fla_chunk(inputs: Inputs) -> Any:
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    q, k, v, g, beta = inputs.qkv(HV)
    return chunk_gated_delta_rule(
        q, k, v, g, beta.to(q.dtype), initial_state=inputs.normal(2, HV, K, V, dtype=torch.float32),
        output_final_state=True, use_qk_l2norm_in_kernel=True, cu_seqlens=inputs.ints(0, 40, T, dtype=torch.int64),
    )  # fmt: skip


def fla_recurrent(inputs: Inputs) -> Any:
    from fla.ops.gated_delta_rule import fused_recurrent_gated_delta_rule

    q, k, v, g, beta = inputs.qkv(HV)
    return fused_recurrent_gated_delta_rule(
        q, k, v, g, beta=beta.to(q.dtype), initial_state=inputs.normal(1, HV, K, V, dtype=torch.float32),
        output_final_state=True, use_qk_l2norm_in_kernel=True,
    )  # fmt: skip


def fla_conv(inputs: Inputs) -> Any:
    from fla.modules.causal_conv1d import causal_conv1d

    return causal_conv1d(inputs.normal(1, T, 512), inputs.normal(512, 4), activation="silu", output_final_state=True)


def fla_conv_update(inputs: Inputs) -> Any:
    from fla.modules.causal_conv1d import causal_conv1d_update

    cache = inputs.normal(B, 512, 4)
    out = causal_conv1d_update(inputs.normal(B, 1, 512), cache, weight=inputs.normal(512, 4), activation="silu")
    return out, cache


VLLM = [vllm_conv_fwd, vllm_conv_update, vllm_packed_decode, vllm_sigmoid_gating, vllm_post_conv, vllm_chunk]
FLA = [fla_chunk, fla_recurrent, fla_conv, fla_conv_update]
# These set the device of their first tensor themselves (`input_guard`), so stock is right already.
SELF_GUARDED = {vllm_chunk, fla_chunk, fla_recurrent, fla_conv, fla_conv_update}


def tensors(found: Any) -> list[torch.Tensor]:
    """Every tensor of a result, in order, on the host."""
    if isinstance(found, torch.Tensor):
        return [found.cpu()]
    return [tensor for item in found if item is not None for tensor in tensors(item)] if found is not None else []


def from_a_thread_on_device_0(case: Case) -> list[torch.Tensor] | Exception:
    """What `case` gives in a new thread, whose current device is 0, and stays so."""
    answer: list[list[torch.Tensor] | Exception] = []

    def work() -> None:
        assert torch.cuda.current_device() == 0
        try:
            answer.append(tensors(case(Inputs())))
        except Exception as error:  # noqa: BLE001 - is what is looked at
            answer.append(error)
        assert torch.cuda.current_device() == 0

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(240)
    return answer[0]


@pytest.fixture(autouse=True)
def unguarded() -> Iterator[None]:
    torch.cuda.set_device(0)
    guard.remove()
    yield
    guard.remove()
    torch.cuda.set_device(0)


def note(line: str) -> None:
    """A line for the printed record, where one is asked for."""
    print(line)
    if folder := os.environ.get("HARDPOINT_RESULTS"):
        with (Path(folder) / "gdn_kernels.txt").open("a") as file:
            file.write(line + "\n")


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=pytest.mark.skipif(NO_VLLM, reason="vLLM is not installed")) for c in VLLM]
    + [pytest.param(c, marks=pytest.mark.skipif(NO_FLA, reason="fla is not installed")) for c in FLA],
    ids=lambda case: case.__name__,
)
def test_the_guard_makes_it_right(case: Case) -> None:
    with torch.cuda.device(1):
        expected = tensors(case(Inputs()))
    stock = from_a_thread_on_device_0(case)
    guard.install("cuda")
    guarded = from_a_thread_on_device_0(case)
    if isinstance(stock, Exception):
        said = f"{type(stock).__name__}: {str(stock).splitlines()[0][:90]}"
    else:
        said = "right" if same(stock, expected) else "WRONG VALUES, no error"
    assert not isinstance(guarded, Exception), guarded
    assert same(guarded, expected)
    note(f"{case.__name__:<22} stock on cuda:0: {said:<100} guarded: right")
    if case not in SELF_GUARDED:
        assert said != "right", "stock is right here: this kernel needs no guard any more, move it to SELF_GUARDED"


def same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    """Equal bit by bit, and made of numbers: the kernels are deterministic."""
    return len(found) == len(expected) > 0 and all(
        torch.equal(a, b) and not a.float().isnan().any() for a, b in zip(found, expected, strict=True)
    )
