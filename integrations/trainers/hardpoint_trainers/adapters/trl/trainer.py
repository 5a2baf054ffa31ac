"""`published`: a TRL trainer class whose vLLM gets its weights through hardpoint."""

from __future__ import annotations

import sys
from typing import Any, TypeVar

from hardpoint_trainers.adapters.replaced import replaced
from hardpoint_trainers.adapters.trl.generation import PublishedGeneration, generation_class
from hardpoint_trainers.adapters.trl.options import Options

T = TypeVar("T")


def published(trainer: type[T], options: Options | None = None) -> type[T]:
    """A subclass of `trainer` (GRPOTrainer, RLOOTrainer, DistillationTrainer) that publishes instead of loading.

        trainer = published(GRPOTrainer)(model=..., args=GRPOConfig(use_vllm=True, ...), ...)

    It takes the arguments of `trainer`, works with ``vllm_mode="colocate"`` and ``"server"``, and without ``use_vllm``
    is `trainer`. The patch behind it: ``VLLMGeneration`` in the module of `trainer`, while one is being made.

    Raises:
        HardpointError: on construction, `trainer` has no such name in its module.
    """
    module = sys.modules[trainer.__module__]
    generation = generation_class(options or Options())

    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        with replaced(module, "VLLMGeneration", generation):
            trainer.__init__(self, *args, **kwargs)

    return type(f"Published{trainer.__name__}", (trainer,), {"__init__": construct, "__module__": __name__})


__all__ = ["Options", "PublishedGeneration", "published"]
