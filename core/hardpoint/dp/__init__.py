"""Data-parallel padding: the rule of a backend as data, the plan of a step as a pure function, and agreement on it."""

from hardpoint.dp.agree import Exchange, Step, agree, exchange_over
from hardpoint.dp.plan import DpPlan
from hardpoint.dp.rule import DpRule, GraphMode, synced_mode

__all__ = ["DpPlan", "DpRule", "Exchange", "GraphMode", "Step", "agree", "exchange_over", "synced_mode"]
