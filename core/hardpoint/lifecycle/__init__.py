"""Sleep and wake: memory under tags, and the state machine that no rank can tear apart."""

from hardpoint.lifecycle.host_memory import HostMemoryMap
from hardpoint.lifecycle.protocol import Holding, MemoryMap

__all__ = ["Holding", "HostMemoryMap", "MemoryMap"]
