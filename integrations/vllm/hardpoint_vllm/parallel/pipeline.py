"""Buffers that a pipeline stage receives into.

vLLM makes them in the dummy run of its warm-up alone. Its CPU worker skips that run when it executes eagerly with a KV
cache of stated size, and the first real step of every later stage then dies on an assertion (0.32,
``gpu_model_runner.py`` ``sync_and_gather_intermediate_tensors``).
"""

from __future__ import annotations

from typing import Any


def prepare(runner: Any, first_stage: bool) -> bool:
    """Make the buffers of `runner` (a `GPUModelRunner`) as the dummy run would; False if there is nothing to make.

    Shapes: ``[max_num_tokens, hidden]`` each, in the model's dtype, on the runner's device.
    """
    if first_stage or getattr(runner, "intermediate_tensors", None) is not None:
        return False
    runner.intermediate_tensors = runner.model.make_empty_intermediate_tensors(
        batch_size=runner.max_num_tokens, dtype=runner.model_config.dtype, device=runner.device
    )
    return True
