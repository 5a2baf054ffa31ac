"""Collectives between simulated devices of different processes: core's communicator over gloo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hardpoint.communicator import Communicator, Rendezvous

    from hardpoint_sim.engine import Engine


@dataclass(frozen=True)
class SimCommunicatorFactory:
    """Makes a communicator for one `Rendezvous`."""

    engine: Engine

    def __call__(self, rendezvous: Rendezvous, /) -> Communicator:
        raise NotImplementedError("the simulator's communicator is not there yet")
