"""Kernels of vllm-xpu-kernels, offered where it is installed. Nothing of it is imported before a call."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Any

import torch

from hardpoint.launcher import KernelOffer, Refusal

PROVIDER = "vllm-xpu-kernels"


def grouped_gemm(
    A: torch.Tensor,
    A_scale: torch.Tensor | None,
    B: torch.Tensor,
    B_scale: torch.Tensor | None,
    bias: torch.Tensor | None,
    D: torch.Tensor,
    rows_per_expert: torch.Tensor,
    N: int,
    K: int,
    num_experts: int,
) -> Any:
    """``D[rows of e] = A[rows of e] @ B[e]`` with B ``[E, K, N]``."""
    import vllm_xpu_kernels._xpu_C  # noqa: F401 - registers the ops

    return torch.ops._xpu_C.cutlass_grouped_gemm_interface(
        A, A_scale, B, B_scale, bias, D, rows_per_expert, N, K, num_experts
    )


def gdn_attention(
    core_attn_out: torch.Tensor,
    z: torch.Tensor,
    projected_states_qkvz: torch.Tensor,
    projected_states_ba: torch.Tensor,
    num_k_heads: int,
    num_v_heads: int,
    head_k_dim: int,
    head_v_dim: int,
    conv_state: torch.Tensor,
    ssm_state: torch.Tensor,
    conv_weights: torch.Tensor,
    conv_bias: torch.Tensor | None,
    activation: str,
    A_log: torch.Tensor,
    dt_bias: torch.Tensor,
    num_prefills: int,
    num_decodes: int,
    num_spec_decodes: int,
    has_initial_state: torch.Tensor | None,
    non_spec_query_start_loc: torch.Tensor | None,
    non_spec_token_indx: torch.Tensor | None,
    non_spec_state_indices_tensor: torch.Tensor | None,
    spec_query_start_loc: torch.Tensor | None,
    spec_token_indx: torch.Tensor | None,
    spec_state_indices_tensor: torch.Tensor | None,
    num_accepted_tokens: torch.Tensor | None,
    num_actual_tokens: int,
    tp_size: int,
    reorder_input: bool,
) -> None:
    """The gated delta net of one layer into `core_attn_out` and `z`, states updated in place."""
    import vllm_xpu_kernels._xpu_C  # noqa: F401

    torch.ops._xpu_C.gdn_attention(
        core_attn_out,
        z,
        projected_states_qkvz,
        projected_states_ba,
        num_k_heads,
        num_v_heads,
        head_k_dim,
        head_v_dim,
        conv_state,
        ssm_state,
        conv_weights,
        conv_bias,
        activation,
        A_log,
        dt_bias,
        num_prefills,
        num_decodes,
        num_spec_decodes,
        has_initial_state,
        non_spec_query_start_loc,
        non_spec_token_indx,
        non_spec_state_indices_tensor,
        spec_query_start_loc,
        spec_token_indx,
        spec_state_indices_tensor,
        num_accepted_tokens,
        num_actual_tokens,
        tp_size,
        reorder_input,
    )


def remap_hidden_states(
    hidden_states: torch.Tensor,
    hidden_states_scales: torch.Tensor | None,
    remapped_hidden_states: torch.Tensor,
    remapped_hidden_states_scales: torch.Tensor | None,
    expert_map: torch.Tensor | None,
    rows_per_expert: torch.Tensor,
    unpermuted_row_to_permuted_row: torch.Tensor,
    topk_ids: torch.Tensor,
    total_experts_num: int,
    local_experts_num: int,
) -> None:
    """Rows of tokens in the order of their experts."""
    import vllm_xpu_kernels._moe_C  # noqa: F401

    torch.ops._moe_C.remap_hidden_states(
        hidden_states,
        hidden_states_scales,
        remapped_hidden_states,
        remapped_hidden_states_scales,
        expert_map,
        rows_per_expert,
        unpermuted_row_to_permuted_row,
        topk_ids,
        total_experts_num,
        local_experts_num,
    )


def moe_gather(
    output: torch.Tensor,
    moe_output: torch.Tensor,
    topk_weights: torch.Tensor,
    unpermuted_row_to_permuted_row: torch.Tensor,
    num_experts: int,
) -> None:
    """Weighted sum of each token's experts, back in the order of the tokens."""
    import vllm_xpu_kernels._moe_C  # noqa: F401

    torch.ops._moe_C.moe_gather(output, moe_output, topk_weights, unpermuted_row_to_permuted_row, num_experts)


# op -> (function, what its caller has to know).
OPS: MappingProxyType[str, tuple[Callable[..., Any], str]] = MappingProxyType(
    {
        "moe_grouped_gemm": (grouped_gemm, "weights [E, K, N]; writes its argument D, which its schema does not mark"),
        "gdn_attention": (
            gdn_attention,
            "writes core_attn_out and z below num_actual_tokens only, and nothing without metadata: both come zeroed",
        ),
        "moe_remap_hidden_states": (remap_hidden_states, "writes arguments that its schema does not mark"),
        "moe_gather": (moe_gather, "a topk id of -1 is an index to it: mask padding before (vllm issue 57787)"),
    }
)


def offer(op: str) -> KernelOffer | Refusal | None:
    """The kernel for `op`; a refusal with the reason where it cannot be had, None for an op that is not in the table.

    Where it is refused, the Triton kernel of hardpoint is the one to take.
    """
    if op not in OPS:
        return None
    try:
        found = version(PROVIDER)
    except PackageNotFoundError:
        return Refusal(op, PROVIDER, f"{PROVIDER} is not installed; the Triton kernel takes its place")
    function, note = OPS[op]
    return KernelOffer(op, f"{PROVIDER} {found}", function, note)
