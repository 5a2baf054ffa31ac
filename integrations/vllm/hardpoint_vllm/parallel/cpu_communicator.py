"""vLLM's CPU communicator, with the ragged collectives that it lacks (0.32: ``NotImplementedError`` with DP and EP).

They run on a communicator of our own beside vLLM's group: ranks compare what they are about to do before data moves,
every call has a deadline, and a rank that died, stalls or brings other shapes is named on every survivor.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch._C._distributed_c10d import PrefixStore
from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator

import hardpoint
from hardpoint.communicator import Communicator, Rendezvous
from hardpoint.environment import collective_deadline
from hardpoint_vllm.parallel.all2all import HardpointAll2AllManager
from hardpoint_vllm.parallel.watched import Watched


class HardpointCpuCommunicator(Watched, CpuCommunicator):  # type: ignore[misc]
    """`CpuCommunicator` for every group, watched; `all_gatherv` and `reduce_scatterv` for those that ask for them."""

    blocking = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if getattr(self, "all2all_manager", None) is not None:
            self.all2all_manager = HardpointAll2AllManager(self.cpu_group)

    @cached_property
    def ours(self) -> Communicator:
        """The communicator of this group; made by all ranks together, in the first ragged collective."""
        from torch.distributed.distributed_c10d import _get_default_store

        name = f"vllm {self.unique_name} {'-'.join(map(str, self.ranks))}"
        store = PrefixStore("hardpoint_vllm", _get_default_store())
        place = Rendezvous(store, self.rank_in_group, self.world_size, name, collective_deadline())
        return hardpoint.get_backend().communicator(place)

    def all_gatherv(
        self, input_: torch.Tensor | list[torch.Tensor], dim: int = 0, sizes: list[int] | None = None
    ) -> torch.Tensor | list[torch.Tensor]:
        """Rows of every rank ``[sizes[rank], ...]``, in rank order, of one tensor or of each of several."""
        if dim != 0:
            raise NotImplementedError(f"all_gatherv gathers rows (dim 0), asked for dim {dim}")
        if isinstance(input_, list):
            return [self._gathered(tensor, sizes) for tensor in input_]
        return self._gathered(input_, sizes)

    def reduce_scatterv(self, input_: torch.Tensor, dim: int = -1, sizes: list[int] | None = None) -> torch.Tensor:
        """Sum over the ranks of `input_`, of which rank r keeps ``sizes[r]`` slices along `dim`."""
        rows = input_.movedim(dim, 0).contiguous()
        counts = sizes if sizes is not None else [rows.shape[0] // self.world_size] * self.world_size
        output = rows.new_empty((counts[self.rank_in_group], *rows.shape[1:]))
        self.ours.reduce_scatter_ragged(output, rows, counts)
        return output.movedim(0, dim).contiguous()

    def destroy(self) -> None:
        """Release our communicator too, if it was made."""
        made = self.__dict__.pop("ours", None)
        if made is not None:
            made.close()
        super().destroy()

    def _gathered(self, tensor: torch.Tensor, sizes: list[int] | None) -> torch.Tensor:
        counts = sizes if sizes is not None else [tensor.shape[0]] * self.world_size
        output = tensor.new_empty((sum(counts), *tensor.shape[1:]))
        self.ours.all_gather_ragged(output, tensor.contiguous(), counts)
        return output
