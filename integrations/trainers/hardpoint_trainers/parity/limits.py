"""How far log-probs of two correct engines are apart, by the dtype that the model computes in, and where that is from.

Measured by others, in nats, per token, between a trainer and vLLM with the same weights:

- ServiceNow/Fast-LLM, pull request 525, comment of 2026-06-02 (Qwen2.5-0.5B, realistic text, Fast-LLM and DeepSpeed
  against vLLM): root mean square 0.0022 in float32; 0.031 to 0.041 in bfloat16, depending on the dtype of the lm_head.
- vllm-project/vime, issue 64 (Qwen3-4B, bfloat16): mean absolute difference flat at 0.011 over 30 steps with vLLM; a
  stack that drifted went from 0.011 to 0.036.

A limit here is about four times what was measured: wide enough for larger models and other kernels, and below what a
wrong layout or stale weights do, which is tenths to whole nats on most tokens. float16 has not been measured there: its
limit is that of bfloat16 divided by 8, the ratio of their roundings, and not less than twice float32's. Whoever has
measured a model sets a tighter one.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from hardpoint.errors import HardpointError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Limit:
    """Largest root mean square of the difference per token, in nats, and where that number is from."""

    rms: float
    source: str


LIMITS = MappingProxyType(
    {
        "float32": Limit(0.01, "Fast-LLM 525: 0.0022 measured"),
        "float16": Limit(0.02, "derived: bfloat16 / 8, at least twice float32"),
        "bfloat16": Limit(0.15, "Fast-LLM 525: 0.031 to 0.041 measured; vime 64: mean absolute 0.011"),
    }
)


def limit_for(dtype: torch.dtype) -> Limit:
    """The limit for a model that computes in `dtype`.

    Raises:
        HardpointError: nothing is known about it (quantised models differ by their scheme): pass a `Limit` of your own.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in LIMITS:
        raise HardpointError(
            f"No parity limit is known for {name}; known are {', '.join(LIMITS)}. Measure a sync that you trust and "
            "pass Limit(rms, source)."
        )
    return LIMITS[name]
