"""A communicator for ranks that share a device: native libraries take a device once per group, gloo does not ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardpoint.communicator.host_staged import HostStaged
from hardpoint.communicator.protocol import Communicator, CommunicatorFactory, Rendezvous
from hardpoint.communicator.torch_communicator import TorchCommunicator
from hardpoint.communicator.transport import GLOO_DTYPES, GLOO_REDUCE_OPS

if TYPE_CHECKING:
    from hardpoint.device import Device


def through_host(device: Device) -> CommunicatorFactory:
    """Makes `HostStaged` communicators for tensors on `device`, over gloo; slower than the native library.

    For a trainer and the engine that is colocated with it: NCCL refuses two ranks of one group on one GPU.
    """

    def open_communicator(rendezvous: Rendezvous) -> Communicator:
        host = TorchCommunicator(
            rendezvous, device_type="cpu", library="gloo", carried=GLOO_DTYPES, reduce_ops=GLOO_REDUCE_OPS
        )
        return HostStaged(host, device, rendezvous.device_index)

    return open_communicator
