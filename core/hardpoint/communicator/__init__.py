"""Collectives with a deadline: the Protocols, and the one over torch.distributed."""

from hardpoint.communicator.protocol import Broadcast, Communicator, CommunicatorFactory, Rendezvous, Verdict

__all__ = ["Broadcast", "Communicator", "CommunicatorFactory", "Rendezvous", "Verdict"]
