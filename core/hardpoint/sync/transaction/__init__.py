"""The transaction: an update is on every rank or on none, and nobody serves what it does not know to be decided."""

from hardpoint.sync.transaction.coordinator import Coordinator, Outcome, Stage
from hardpoint.sync.transaction.engine import EngineState, engine_state
from hardpoint.sync.transaction.hooks import EngineHooks, NoEngine
from hardpoint.sync.transaction.inprocess import InProcess
from hardpoint.sync.transaction.messages import Message, Outgoing, Step
from hardpoint.sync.transaction.mode import Choice, Mode, Room, choose_mode
from hardpoint.sync.transaction.participant import Participant
from hardpoint.sync.transaction.phase import Ending, Phase
from hardpoint.sync.transaction.record import Decision, DecisionRecord, FileRecord, MemoryRecord
from hardpoint.sync.transaction.staging import Staging, staging_for
from hardpoint.sync.transaction.tree import Tree
from hardpoint.sync.transaction.weights import InPlace, Unplanned, Weights
from hardpoint.sync.transaction.wire import WireLimits, decode, encode

__all__ = [
    "Choice",
    "Coordinator",
    "Decision",
    "DecisionRecord",
    "Ending",
    "EngineHooks",
    "EngineState",
    "FileRecord",
    "InPlace",
    "InProcess",
    "MemoryRecord",
    "Message",
    "Mode",
    "NoEngine",
    "Outcome",
    "Outgoing",
    "Participant",
    "Phase",
    "Room",
    "Stage",
    "Staging",
    "Step",
    "Tree",
    "Unplanned",
    "Weights",
    "WireLimits",
    "choose_mode",
    "decode",
    "encode",
    "engine_state",
    "staging_for",
]
