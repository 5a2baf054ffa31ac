"""ms-swift's trainers with `Publishing` in front."""

from __future__ import annotations

from swift.rlhf_trainers import GKDTrainer, GRPOTrainer

from hardpoint_trainers.adapters.swift.mixin import Publishing


class PublishedGRPOTrainer(Publishing, GRPOTrainer):  # type: ignore[misc, unused-ignore]
    """`GRPOTrainer` whose colocated vLLM gets its weights through hardpoint."""


class PublishedGKDTrainer(Publishing, GKDTrainer):  # type: ignore[misc, unused-ignore]
    """`GKDTrainer` likewise."""
