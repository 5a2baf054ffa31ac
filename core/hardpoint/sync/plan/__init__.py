"""The plan of a weight update: each element of each receiver's parameters, from exactly one of a trainer's tensors."""

from hardpoint.sync.plan.coordinates import Coordinates, pipeline_layers
from hardpoint.sync.plan.destination import Destination, Part
from hardpoint.sync.plan.execute import Sources, Storages
from hardpoint.sync.plan.expert_biases import ExpertBiases
from hardpoint.sync.plan.experts import Experts
from hardpoint.sync.plan.model import ModelSpec, Receiver
from hardpoint.sync.plan.names import is_adapter, plain_name
from hardpoint.sync.plan.offer import Offer
from hardpoint.sync.plan.packing import Bucket, Landing, Move, Piece
from hardpoint.sync.plan.plan import SyncPlan, make_plan
from hardpoint.sync.plan.planner import Planner
from hardpoint.sync.plan.refusal import PlanRefused, Refusal
from hardpoint.sync.plan.rule import Dense, Rule, Segment, Vocab, replicated

__all__ = [
    "Bucket",
    "Coordinates",
    "Dense",
    "Destination",
    "ExpertBiases",
    "Experts",
    "Landing",
    "ModelSpec",
    "Move",
    "Offer",
    "Part",
    "Piece",
    "PlanRefused",
    "Planner",
    "Receiver",
    "Refusal",
    "Rule",
    "Segment",
    "Sources",
    "Storages",
    "SyncPlan",
    "Vocab",
    "is_adapter",
    "make_plan",
    "pipeline_layers",
    "plain_name",
    "replicated",
]
