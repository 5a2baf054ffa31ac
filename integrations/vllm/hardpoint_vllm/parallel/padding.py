"""Token counts of data-parallel ranks by the backend's rule, in vLLM's own exchange of counts.

Stock pads the ranks of a step to one count only when they replay a graph (0.32: ``v1/worker/dp_utils.py``
``_synchronize_dp_ranks``, ``v1/worker/gpu/dp_utils.py`` ``sync_cudagraph_and_dp_padding``). What is added here is taken
from the counts that all ranks have just exchanged, so that every rank comes to the same answer without a word more.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from vllm.distributed.parallel_state import get_ep_group, get_tp_group

from hardpoint.dp import DpRule, GraphMode
from hardpoint_vllm.parallel.rule import rule
from hardpoint_vllm.patching import wrap
from hardpoint_vllm.triton.on_import import after_import

V1 = "vllm.v1.worker.dp_utils"
V2 = "vllm.v1.worker.gpu.dp_utils"
V1_NAME = "_synchronize_dp_ranks"
V2_NAME = "sync_cudagraph_and_dp_padding"


def padded_counts(counts: torch.Tensor, chosen: DpRule, tp: int, expert_parallel: bool) -> torch.Tensor:
    """`counts` int32 ``[dp]`` of an eager step, by the rule; the same tensor if the rule leaves them as they are."""
    tokens = counts.tolist()
    padded = chosen.plan(tokens, tp=tp, synced_mode=GraphMode.NONE, expert_parallel=expert_parallel).num_padded_tokens
    if padded == tuple(tokens):
        return counts
    return torch.tensor(padded, dtype=counts.dtype, device=counts.device)


def install() -> None:
    """Patch both runners' exchanges, each once; the newer one when vLLM imports it."""
    wrap(importlib.import_module(V1), V1_NAME, _v1)
    if importlib.util.find_spec(V2) is not None:
        after_import(V2, lambda module: wrap(module, V2_NAME, _v2))


def _v1(stock: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def synchronize(*args: Any, **kwargs: Any) -> Any:
        microbatched, counts, mode = stock(*args, **kwargs)
        if counts is None or mode != 0 or microbatched:
            return microbatched, counts, mode  # stock has made them equal
        return microbatched, padded_counts(counts, rule(), *_group()), mode

    return synchronize


def _v2(stock: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def synchronize(*args: Any, **kwargs: Any) -> Any:
        described, synced = stock(*args, **kwargs)
        counts = getattr(synced, "num_tokens_across_dp", synced)  # a tensor in 0.26, a state around it since
        eager = getattr(described.cg_mode, "value", described.cg_mode) == 0
        if counts is None or not eager or getattr(described, "num_ubatches", 1) > 1:
            return described, synced
        rank = kwargs["dp_rank"] if "dp_rank" in kwargs else args[6]
        counts.copy_(padded_counts(counts, rule(), *_group()))  # in place: `synced` holds this tensor
        return replace(described, num_tokens=int(counts[rank])), synced

    return synchronize


def _group() -> tuple[int, bool]:
    """Tensor-parallel size, and whether data-parallel ranks meet in MoE collectives: with any MoE model they do."""
    try:
        moe = get_ep_group().world_size > 1
    except AssertionError:  # vLLM makes the group for MoE models alone
        moe = False
    return get_tp_group().world_size, moe
