"""Do trainer and rollout say the same? Log-probs of a few fixed prompts on both sides, compared after a sync."""

from hardpoint_trainers.parity.limits import LIMITS, Limit, limit_for
from hardpoint_trainers.parity.probe import Parity, ParityExceeded, ParityProbe
from hardpoint_trainers.parity.sides import HttpRollout, LocalRollout, TrainerSide

__all__ = [
    "LIMITS",
    "HttpRollout",
    "Limit",
    "LocalRollout",
    "Parity",
    "ParityExceeded",
    "ParityProbe",
    "TrainerSide",
    "limit_for",
]
