"""vLLM's CPU worker, with what it leaves out of a pipeline stage."""

from __future__ import annotations

from typing import Any

from vllm.distributed.parallel_state import get_pp_group
from vllm.v1.worker.cpu_worker import CPUWorker

from hardpoint_vllm.parallel import pipeline
from hardpoint_vllm.sleep.worker import SleepsWithItsEngine


class HardpointCpuWorker(SleepsWithItsEngine, CPUWorker):  # type: ignore[misc]
    """Everything as in `CPUWorker`; a later pipeline stage has its receive buffers before the first step."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load, then prepare the pipeline stage."""
        super().load_model(*args, **kwargs)
        pipeline.prepare(self.model_runner, get_pp_group().is_first_rank)
