"""Collectives with a deadline: the Protocols, and the one over torch.distributed."""

from hardpoint.communicator.factory import communicator_factory
from hardpoint.communicator.protocol import (
    AllToAll,
    Broadcast,
    Communicator,
    CommunicatorFactory,
    Rendezvous,
    Verdict,
)
from hardpoint.communicator.recorder import RECORDS, FlightRecorder, records_folder
from hardpoint.communicator.torch_communicator import TorchCommunicator
from hardpoint.communicator.transport import GLOO_DTYPES, GLOO_REDUCE_OPS, native_library

__all__ = [
    "GLOO_DTYPES",
    "GLOO_REDUCE_OPS",
    "RECORDS",
    "AllToAll",
    "Broadcast",
    "Communicator",
    "CommunicatorFactory",
    "FlightRecorder",
    "Rendezvous",
    "TorchCommunicator",
    "Verdict",
    "communicator_factory",
    "native_library",
    "records_folder",
]
