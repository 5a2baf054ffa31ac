"""Kernels of vllm-ascend, offered where it is installed. Nothing of it is imported before a call.

Read in the wheels of 0.23.0 and 0.26.0rc1 (schema, and the call in ``vllm_ascend/ops/gdn.py``); not run on an NPU yet.
Its op has a name of its own here, which no measured table holds, so nothing chooses it before somebody has measured it.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import torch

from hardpoint.launcher import KernelOffer, Refusal

PROVIDER = "vllm-ascend"
RECURRENT_RULE = "gdn_recurrent_rule"
FIRST = (0, 23)


def recurrent_gated_delta_rule(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    state: torch.Tensor,
    beta: torch.Tensor,
    g: torch.Tensor,
    scale: float,
    actual_seq_lengths: torch.Tensor,
    ssm_state_indices: torch.Tensor,
    num_accepted_tokens: torch.Tensor | None = None,
) -> torch.Tensor:
    """The rule for steps of one or several tokens: ``[T, HV, V]``, the states in their slots updated in place.

    Args:
        query, key: ``[T, H, K]``, normalised, query not scaled; value ``[T, HV, V]``.
        state: ``[pool, HV, V, K]``.
        beta, g: ``[T, HV]``, g the logarithm of the decay.
        scale: on the query.
        actual_seq_lengths: ``[N]``, tokens of each request.
        ssm_state_indices: ``[N]``, or flattened ``[N * (1 + speculative)]``.
        num_accepted_tokens: ``[N]`` int32, with speculative tokens.
    """
    import vllm_ascend.vllm_ascend_C  # noqa: F401 - registers the ops

    found: torch.Tensor = torch.ops._C_ascend.npu_recurrent_gated_delta_rule(
        query,
        key,
        value,
        state,
        beta=beta,
        scale=scale,
        actual_seq_lengths=actual_seq_lengths,
        ssm_state_indices=ssm_state_indices,
        num_accepted_tokens=num_accepted_tokens,
        g=g,
    )
    return found


def offer(op: str) -> KernelOffer | Refusal | None:
    """The kernel for `op`; a refusal with the reason where it cannot be had, None for an op that it does not have."""
    if op != RECURRENT_RULE:
        return None
    try:
        found = version(PROVIDER)
    except PackageNotFoundError:
        return Refusal(op, PROVIDER, f"{PROVIDER} is not installed")
    numbers = tuple(int(word) for word in found.split(".")[:2] if word.isdigit())
    if numbers < FIRST:
        wanted = ".".join(map(str, FIRST))
        return Refusal(op, PROVIDER, f"requires {PROVIDER} {wanted} or newer, which has the op, got {found}")
    note = "padding is not known to it: every index is a slot; not measured"
    return KernelOffer(op, f"{PROVIDER} {found}", recurrent_gated_delta_rule, note)
