"""`HostStaged` and `Guarded` on simulated devices: order, device guard, refusals, and what a failure leaves."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hardpoint.communicator import Communicator, Rendezvous, TorchCommunicator
from hardpoint.communicator.guarded import Guarded
from hardpoint.communicator.host_staged import HostStaged
from hardpoint.errors import CommunicatorError
from hardpoint_sim.backend import build


def alone() -> TorchCommunicator:
    store: Any = torch.distributed.HashStore()
    names = frozenset({"float32"})
    return TorchCommunicator(
        Rendezvous(store, 0, 1), device_type="cpu", library="gloo", carried=names, reduce_ops=frozenset({"sum"})
    )


class Falling:
    """A host group that overwrites what it is given and then fails."""

    rank, world_size, sequence = 0, 2, 0

    def all_reduce(self, tensor: torch.Tensor, /, *, op: str = "sum", deadline: float | None = None) -> None:
        tensor.fill_(9.0)
        raise CommunicatorError("cut off")


class Noting:
    """A native group that notes the current device of each call."""

    def __init__(self, device: Any) -> None:
        self.device, self.seen = device, []  # type: ignore[var-annotated]

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> None:
            self.seen.append((name, self.device.current()))

        return call


def test_values_are_taken_and_put_in_the_order_of_the_current_stream() -> None:
    device = build({}).device
    group = HostStaged(alone(), device, 1)
    assert isinstance(group, Communicator)
    with device.use_stream(device.stream(1)):
        tensor = torch.full((3,), 2.0, device="sim:1")
        group.all_reduce(tensor)
        tensor.mul_(5.0)
        output = torch.zeros(3, device="sim:1")
        group.all_gather(output, tensor)
        assert output.tolist() == [10.0, 10.0, 10.0]
    assert device.current() == 0


def test_tensors_elsewhere_are_refused_and_a_failure_changes_nothing() -> None:
    device = build({}).device
    with pytest.raises(CommunicatorError, match="tensor is on sim:0, this communicator works on sim:1"):
        HostStaged(alone(), device, 1).broadcast(torch.zeros(3, device="sim:0"), src=0)
    falling: Any = Falling()
    tensor = torch.ones(3, device="sim:1")
    with pytest.raises(CommunicatorError, match="cut off"):
        HostStaged(falling, device, 1).all_reduce(tensor)
    assert tensor.tolist() == [1.0, 1.0, 1.0]


def test_every_collective_runs_under_the_communicators_device() -> None:
    device = build({}).device
    native: Any = Noting(device)
    group, x = Guarded(native, device, 1), torch.zeros(2, device="sim:1")
    group.broadcast(x, src=0)
    group.all_gather(x, x)
    group.all_gather_ragged(x, x, [1])
    group.reduce_scatter(x, x)
    group.reduce_scatter_ragged(x, x, [1])
    group.all_reduce(x)
    group.barrier()
    assert len(native.seen) == 7
    assert {current for _, current in native.seen} == {1}
    assert device.current() == 0
