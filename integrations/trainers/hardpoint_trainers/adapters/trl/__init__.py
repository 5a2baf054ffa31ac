"""TRL (1.16): `published` for trainers that own a vLLM, `AsyncWeightTransfer` for AsyncGRPO.

AsyncGRPO takes a weight transfer as an argument. The other trainers make a `VLLMGeneration` by its name in their own
module and take none: that name stands for a subclass while the trainer is being made, and is put back.
"""

from hardpoint_trainers.adapters.trl.async_grpo import AsyncWeightTransfer
from hardpoint_trainers.adapters.trl.trainer import Options, published

__all__ = ["AsyncWeightTransfer", "Options", "published"]
