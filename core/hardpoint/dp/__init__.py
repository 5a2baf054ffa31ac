"""Data-parallel padding: the rule of a backend as data, and the plan of a step as a pure function."""

from hardpoint.dp.plan import DpPlan
from hardpoint.dp.rule import DpRule, GraphMode, synced_mode

__all__ = ["DpPlan", "DpRule", "GraphMode", "synced_mode"]
