"""What the chosen backend says about parallel steps in this process: its data-parallel rule and its token buffers."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hardpoint.attention import AttentionBuffers
    from hardpoint.dp import DpRule


@cache
def rule() -> DpRule:
    """`Backend.dp_rule` of what ``HARDPOINT_BACKEND`` chooses."""
    import hardpoint

    return hardpoint.get_backend().dp_rule


@cache
def buffers() -> AttentionBuffers:
    """`Backend.attention_buffers` of what ``HARDPOINT_BACKEND`` chooses."""
    import hardpoint

    return hardpoint.get_backend().attention_buffers


def spreads_experts(vllm_config: object) -> bool:
    """Whether experts are spread over data-parallel ranks in this configuration."""
    parallel = getattr(vllm_config, "parallel_config", None)
    return bool(getattr(parallel, "enable_expert_parallel", False) and getattr(parallel, "data_parallel_size", 1) > 1)
