"""vLLM's XPU communicator, watched, whose gather of rows goes into one tensor.

Stock (0.32, ``xpu_communicator.py``) hands ``dist.all_gather`` a list of one tensor for the rows of all ranks where
the counts are equal, and a list of tensors of different sizes where they are not. Here both are one
`all_gather_into_tensor` of equal parts, padded where they have to be. Not run on a device yet.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.distributed.device_communicators.xpu_communicator import XpuCommunicator

from hardpoint.communicator import ragged
from hardpoint_vllm.parallel.all2all import with_barrier
from hardpoint_vllm.parallel.watched import WatchedRagged


class _Gathers(XpuCommunicator):  # type: ignore[misc]
    def all_gatherv(
        self, input_: torch.Tensor | list[torch.Tensor], dim: int = 0, sizes: list[int] | None = None
    ) -> torch.Tensor | list[torch.Tensor]:
        """Rows of every rank ``[sizes[rank], ...]``, in rank order, of one tensor or of each of several."""
        if dim != 0:
            raise NotImplementedError(f"all_gatherv gathers rows (dim 0), asked for dim {dim}")
        if isinstance(input_, list):
            return [self._gathered(tensor, sizes) for tensor in input_]
        return self._gathered(input_, sizes)

    def _gathered(self, tensor: torch.Tensor, sizes: list[int] | None) -> torch.Tensor:
        counts = sizes if sizes is not None else [tensor.shape[0]] * self.world_size
        if len(counts) != self.world_size or counts[self.rank_in_group] != tensor.shape[0]:
            raise ValueError(
                f"all_gatherv on rank {self.rank_in_group} of {self.world_size}: sizes should hold the rows of each "
                f"rank, got {counts} for a tensor of shape {tuple(tensor.shape)}"
            )
        most = max(counts)
        if most == 0:
            return tensor.new_empty((0, *tensor.shape[1:]))
        mine = tensor.contiguous() if tensor.shape[0] == most else ragged.padded(tensor, most)
        every = tensor.new_empty((most * self.world_size, *tensor.shape[1:]))
        torch.distributed.all_gather_into_tensor(every, mine, group=self.device_group)
        if min(counts) == most:
            return every
        output = tensor.new_empty((sum(counts), *tensor.shape[1:]))
        ragged.gathered(output, every, counts, most)
        return output


class HardpointXpuCommunicator(WatchedRagged, _Gathers):
    """`XpuCommunicator` with `all_gatherv` of its own, watched, and the barrier before MoE collectives by the rule."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with_barrier(getattr(self, "all2all_manager", None))
