"""What a backend puts into `Backend.communicator`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardpoint.communicator.protocol import Communicator, CommunicatorFactory, Rendezvous
from hardpoint.communicator.torch_communicator import TorchCommunicator
from hardpoint.communicator.transport import native_library

if TYPE_CHECKING:
    from hardpoint.backend import Capabilities


def communicator_factory(
    device_type: str, capabilities: Capabilities, *, library: str | None = None
) -> CommunicatorFactory:
    """A factory of `TorchCommunicator` for `device_type`, over `library` or the one torch names for the device type.

    Nothing is opened, and torch is not asked, before the first rendezvous.
    """

    def open_communicator(rendezvous: Rendezvous) -> Communicator:
        return TorchCommunicator(
            rendezvous,
            device_type=device_type,
            library=library or native_library(device_type),
            carried=capabilities.communication_dtypes,
            reduce_ops=capabilities.reduce_ops,
        )

    return open_communicator
