"""vLLM's CPU worker, with what it leaves out of a pipeline stage."""

from __future__ import annotations

from typing import Any

from vllm.distributed.parallel_state import get_pp_group
from vllm.v1.attention.backends.registry import AttentionBackendEnum
from vllm.v1.worker.cpu_worker import CPUWorker

from hardpoint_vllm.parallel import pipeline
from hardpoint_vllm.sleep.worker import SleepsWithItsEngine


class HardpointCpuWorker(SleepsWithItsEngine, CPUWorker):  # type: ignore[misc]
    """Everything as in `CPUWorker`; a later pipeline stage has its receive buffers before the first step.

    And all stages name the same KV cache layouts: stock lets a stage without attention layers (Qwen3-Next has such)
    name every layout there is, and then refuses to start since the stages disagree (0.32, `resolve_kv_cache_layout`).
    """

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load, then prepare the pipeline stage."""
        super().load_model(*args, **kwargs)
        pipeline.prepare(self.model_runner, get_pp_group().is_first_rank)

    def get_supported_kv_cache_layouts(self) -> list[str]:
        """Those of this stage that attention on the CPU reads, in its order; all of them if that is none."""
        mine: list[str] = super().get_supported_kv_cache_layouts()
        layouts = AttentionBackendEnum.CPU_ATTN.get_class().supported_kv_cache_layouts()
        return [layout.name for layout in layouts or () if layout.name in mine] or mine
