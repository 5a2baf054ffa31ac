"""A pytest plugin that puts `ChunkRule` in the place of fla's `chunk_gated_delta_rule` while fla's own tests run.

The forward pass is hardpoint's kernels. hardpoint has no backward pass: gradients, which most of fla's tests ask for as
well, come from this project's reference in torch, so what they prove is the reference. A call that `ChunkRule` refuses
(head sizes of 60 and 100, float32, other chunks than 64) is a skip with the refusal's sentence.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton

from hardpoint_kernels import KernelRefused
from hardpoint_kernels.gdn import reference
from hardpoint_kernels.gdn.chunk import ChunkRule
from hardpoint_kernels.gdn.heads import Heads
from hardpoint_kernels.gdn.plan import plan_chunks

CALLS = {"chunk_gated_delta_rule": 0}


def _tolerant_autotune(autotune: Callable[..., Any]) -> Callable[..., Any]:
    """fla names autotuning keys that are no arguments of the kernel, which Triton from 3.9 on refuses at import."""

    def tuned(configs: Any, key: Any, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        return lambda fn: autotune(configs, [name for name in key if name in fn.arg_names], *args, **kwargs)(fn)

    return tuned


if not torch.cuda.is_available():
    torch.cuda.synchronize = lambda device=None: None  # fla's conftest waits for the device after each test
triton.autotune = _tolerant_autotune(triton.autotune)  # now: fla's conftest imports fla before any hook is called


def _states(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor, beta: torch.Tensor, h0: torch.Tensor,
    starts: list[int], scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """The reference in float32, in operations that autograd follows."""
    outputs, last = [], []
    for n in range(len(starts) - 1):
        rows = slice(starts[n], starts[n + 1])
        given = (q[rows].float() * scale, k[rows].float(), v[rows].float(), g[rows].float(), beta[rows].float())
        found, states = reference.delta_rule_sequence(*given, h0[n].float())
        outputs.append(found)
        last.append(states[-1] if states else h0[n].float())
    return torch.cat(outputs).to(v.dtype), torch.stack(last)


class _Rule(torch.autograd.Function):
    """Forward: two launches of hardpoint. Backward: the reference."""

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, g: Any, beta: Any, h0: Any, starts: Any, scale: float) -> Any:
        heads = Heads(q.shape[1], v.shape[1], q.shape[2], v.shape[2])
        state = torch.cat([torch.zeros_like(h0[:1]), h0]).float().contiguous()
        slots = torch.arange(1, len(h0) + 1, dtype=torch.int32, device=q.device)
        out = torch.full_like(v, float("nan"))
        plan = plan_chunks(torch.tensor(starts, dtype=torch.int32, device=q.device), q.shape[0])
        rule = ChunkRule(heads, scale=scale, null_slot=0)
        initial = torch.ones(len(h0), dtype=torch.bool, device=q.device)
        tensors = [tensor.contiguous() for tensor in (q, k, v, g, beta)]
        rule(*tensors, state, slots, initial, plan, out)
        ctx.save_for_backward(q, k, v, g, beta, h0)
        ctx.given = (starts, scale)
        CALLS["chunk_gated_delta_rule"] += 1
        return out, state[1:]

    @staticmethod
    def backward(ctx: Any, d_out: torch.Tensor, d_state: torch.Tensor) -> Any:
        with torch.enable_grad():
            given = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
            found = _states(*given, *ctx.given)
            return (*torch.autograd.grad(found, given, (d_out, d_state), allow_unused=True), None, None)


def chunk_gated_delta_rule(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor, beta: torch.Tensor,
    scale: float | None = None, initial_state: torch.Tensor | None = None, output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False, use_beta_sigmoid_in_kernel: bool = False, allow_neg_eigval: bool = False,
    state_v_first: bool = False, cu_seqlens: torch.Tensor | None = None, cu_seqlens_cpu: torch.Tensor | None = None,
    chunk_indices: torch.Tensor | None = None, cp_context: Any = None, use_gate_in_kernel: bool = False,
    A_log: torch.Tensor | None = None, dt_bias: torch.Tensor | None = None, chunk_size: int = 64, **other: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """fla's call, by `ChunkRule`."""
    if chunk_size != 64 or cp_context is not None or other:
        pytest.skip(f"ChunkRule works in chunks of 64 on one device: chunk_size={chunk_size}, {sorted(other)}")
    batch, length = q.shape[:2]
    starts = [n * length for n in range(batch + 1)] if cu_seqlens is None else cu_seqlens.tolist()
    if use_gate_in_kernel:
        assert A_log is not None
        raw = g.float() if dt_bias is None else g.float() + dt_bias.float()
        g = -A_log.float().exp() * torch.nn.functional.softplus(raw)
    if use_beta_sigmoid_in_kernel:
        beta = beta.float().sigmoid() * (2.0 if allow_neg_eigval else 1.0)
    if use_qk_l2norm_in_kernel:
        q, k = (reference.l2norm(tensor.float()).to(tensor.dtype) for tensor in (q, k))
    sizes = (len(starts) - 1, v.shape[2], v.shape[3], q.shape[3])
    if initial_state is None:
        h0 = torch.zeros(sizes, device=q.device)
    else:
        h0 = initial_state.float() if state_v_first else initial_state.float().transpose(-1, -2)
    flat = [tensor.flatten(0, 1) for tensor in (q, k, v)] + [tensor.flatten(0, 1).float() for tensor in (g, beta)]
    try:
        out, state = _Rule.apply(*flat, h0, starts, q.shape[-1] ** -0.5 if scale is None else scale)
    except KernelRefused as refused:
        pytest.skip(str(refused))
    state = state if state_v_first else state.transpose(-1, -2)
    return out.unflatten(0, (batch, length)), state if output_final_state else None


def pytest_configure(config: pytest.Config) -> None:
    """Before a test module of fla is imported."""
    import fla.ops.gated_delta_rule as theirs
    import fla.utils

    if not torch.cuda.is_available():  # without a driver fla takes cuda for the device that its tests run on
        fla.utils.device = "cpu"

    known = set(inspect.signature(chunk_gated_delta_rule).parameters)
    missing = set(inspect.signature(theirs.chunk_gated_delta_rule).parameters) - known - {"kwargs"}
    if missing:
        raise pytest.UsageError(f"fla's chunk_gated_delta_rule takes {sorted(missing)}, which the adapter does not.")
    theirs.chunk_gated_delta_rule = chunk_gated_delta_rule


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How often hardpoint's kernels ran: a suite that never reached them proves nothing."""
    for name, count in CALLS.items():
        terminalreporter.write_line(f"hardpoint in place of fla's {name}: {count} forward passes")
    if not any(CALLS.values()):
        terminalreporter.write_line("hardpoint's kernels were not reached: this run proves nothing", red=True)
