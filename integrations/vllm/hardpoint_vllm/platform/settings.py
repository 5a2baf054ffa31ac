"""What every derived platform sets in vLLM's configuration, after vLLM's own platform has had its say."""

from __future__ import annotations

import math
from typing import Any

from hardpoint.environment import collective_deadline
from hardpoint_vllm.parallel.rule import rule, spreads_experts


def prepare(vllm_config: Any, *, host_memory: bool) -> None:
    """Deadlines of collectives on host memory, and the scheduler by the backend's rule.

    Args:
        vllm_config: vLLM's; a timeout that the user has set stays.
        host_memory: the device's own groups are gloo too (CPU). A timeout of NCCL's or XCCL's is left alone: it ends
            the process, without a word on which rank was absent.
    """
    parallel = vllm_config.parallel_config
    seconds = max(1, math.ceil(collective_deadline()))
    names = ("cpu_distributed_timeout_seconds", "distributed_timeout_seconds")
    for name in names if host_memory else names[:1]:
        if getattr(parallel, name, None) is None:
            setattr(parallel, name, seconds)
    if spreads_experts(vllm_config) and not rule().async_scheduling:
        vllm_config.scheduler_config.async_scheduling = False
