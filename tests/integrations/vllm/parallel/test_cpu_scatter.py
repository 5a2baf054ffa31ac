"""The ragged scatter of the CPU communicator, along any axis."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hardpoint_vllm.parallel.cpu_communicator import HardpointCpuCommunicator


class SecondOfTwo:
    """Sums nothing, and gives rank 1 its rows."""

    def reduce_scatter_ragged(self, output: torch.Tensor, tensor: torch.Tensor, counts: list[int]) -> None:
        assert sum(counts) == tensor.shape[0]
        output.copy_(tensor[counts[0] :])


@pytest.mark.parametrize(("dim", "sizes"), [(0, [1, 3]), (1, [2, 3]), (2, [2, 4]), (-1, [2, 4])])
def test_the_asked_axis_is_scattered(dim: int, sizes: list[int]) -> None:
    made: Any = HardpointCpuCommunicator.__new__(HardpointCpuCommunicator)
    made.__dict__.update(world_size=2, rank_in_group=1, ours=SecondOfTwo())
    whole = torch.arange(4 * 5 * 6.0).reshape(4, 5, 6)
    scattered = HardpointCpuCommunicator.__dict__["reduce_scatterv"](made, whole, dim, sizes)
    assert torch.equal(scattered, whole.split(sizes, dim)[1])
