"""Experts of vLLM's CPU kernels when a rank holds only some of them.

Stock `CPUUnquantizedExperts.apply` ignores `expert_map`: the kernel takes global expert ids for local ones and reads
past the end of its weights (0.32: SIGSEGV with TP=2 and expert parallelism).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch


def local_rows(
    topk_weights: torch.Tensor, topk_ids: torch.Tensor, expert_map: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What of a routing this rank computes.

    A slot of an expert elsewhere (or of id -1, padding) gets weight 0 and the id of a local expert of the same row, so
    that nothing is computed which the row does not need anyway: a result that is infinite somewhere else could not be
    masked by a weight of 0.

    Args:
        topk_weights: ``[tokens, topk]``, float32.
        topk_ids: ``[tokens, topk]``, global expert ids; -1 is no expert.
        expert_map: ``[experts]``, local id of each global expert, -1 where it is on another rank.

    Returns:
        Rows with a local expert ``[n]`` (int64), and weights and local ids ``[n, topk]`` of these rows, in the dtypes
        of the arguments.
    """
    local = expert_map.to(topk_ids.device)[topk_ids.clamp(min=0).long()].to(topk_ids.dtype)
    here = (local >= 0) & (topk_ids >= 0)
    rows = here.any(dim=1).nonzero().flatten()
    local, here = local[rows], here[rows]
    first = local.gather(1, here.int().argmax(dim=1, keepdim=True))
    weights = torch.where(here, topk_weights[rows], torch.zeros((), dtype=topk_weights.dtype))
    return rows, weights, torch.where(here, local, first)


@cache
def with_expert_map(experts: type[Any]) -> type[Any]:
    """`experts` (a class of vLLM's ``experts/cpu_moe.py``) that honours `expert_map`; made once for each."""

    def apply(
        self: Any,
        output: torch.Tensor,
        hidden_states: torch.Tensor,
        w1: torch.Tensor,
        w2: torch.Tensor,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
        activation: Any,
        global_num_experts: int,
        expert_map: torch.Tensor | None,
        *rest: Any,
        **named: Any,
    ) -> None:
        """See `FusedMoEExpertsModular.apply`; rows without an expert here are zero."""
        if expert_map is None:
            whole = (hidden_states, w1, w2, topk_weights, topk_ids, activation, global_num_experts, None)
            experts.apply(self, output, *whole, *rest, **named)
            return
        rows, weights, ids = local_rows(topk_weights, topk_ids, expert_map)
        output.zero_()
        if not rows.numel():
            return
        part = torch.empty(len(rows), *output.shape[1:], dtype=output.dtype)
        some = (
            hidden_states[rows],
            w1,
            w2,
            weights.contiguous(),
            ids.contiguous(),
            activation,
            global_num_experts,
            None,
        )
        experts.apply(self, part, *some, *rest, **named)
        output.index_copy_(0, rows, part)

    # With weights on the input (topk 1) a kept row has its one expert here, so no slot is masked by a weight.
    return type(f"Mapped{experts.__name__}", (experts,), {"apply": apply, "__doc__": experts.__doc__})
