"""Sleep and wake: memory under tags, and the state machine that no rank can tear apart."""

from hardpoint.lifecycle.account import Account
from hardpoint.lifecycle.host import AloneVoter, Host, IdleHost, Voter
from hardpoint.lifecycle.host_memory import HostMemoryMap
from hardpoint.lifecycle.machine import Deadlines, Health, Lifecycle, LifecycleFactory, LifecycleParts
from hardpoint.lifecycle.protocol import Holding, MemoryMap
from hardpoint.lifecycle.states import Action, Phase, Stage, State
from hardpoint.lifecycle.store_voter import StoreVoter
from hardpoint.lifecycle.table import transition

__all__ = [
    "Account",
    "Action",
    "AloneVoter",
    "Deadlines",
    "Health",
    "Holding",
    "Host",
    "HostMemoryMap",
    "IdleHost",
    "Lifecycle",
    "LifecycleFactory",
    "LifecycleParts",
    "MemoryMap",
    "Phase",
    "Stage",
    "State",
    "StoreVoter",
    "Voter",
    "transition",
]
