"""The trainer's side of weight sync. Needs hardpoint and torch; transformers only for its own models."""

from hardpoint_trainers.model_kwargs import base_model, generate_kwargs
from hardpoint_trainers.names import is_adapter, plain_name
from hardpoint_trainers.publisher import WeightPublisher
from hardpoint_trainers.state import checkpoint_tensors

__all__ = ["WeightPublisher", "base_model", "checkpoint_tensors", "generate_kwargs", "is_adapter", "plain_name"]
