"""ms-swift (4.6), colocate mode: GRPO and GKD trainers that publish, by ms-swift's own table of trainers.

    swift rlhf --rlhf_type grpo --use_vllm true --vllm_mode colocate \\
        --external_plugins $(python -m hardpoint_trainers.adapters.swift) ...

ms-swift imports the file before it looks up the trainer's class in ``TrainerFactory.TRAINER_MAPPING``, where `register`
puts ours. ``swift rollout`` (server mode) has endpoints of its own for weights, without a place for another engine:
there the adapter refuses; ``vllm serve`` with TRL, or colocate, are the ways to hardpoint.
"""

from __future__ import annotations

TRAINERS = {"grpo": "GRPOTrainer", "gkd": "GKDTrainer"}


def register() -> None:
    """Have ms-swift make our subclasses of its trainers. Idempotent.

    Raises:
        HardpointError: this ms-swift has no such table, or other trainers in it.
    """
    from swift.trainers.trainer_factory import TrainerFactory

    from hardpoint.errors import HardpointError

    mapping = getattr(TrainerFactory, "TRAINER_MAPPING", None)
    for kind, name in TRAINERS.items():
        ours = f"{__name__}.trainers.Published{name}"
        found = mapping.get(kind) if isinstance(mapping, dict) else None
        if found not in (f"swift.rlhf_trainers.{name}", ours):
            raise HardpointError(
                f"Expected swift.rlhf_trainers.{name} as ms-swift's trainer for {kind}, found {found}. This ms-swift "
                "is not one that hardpoint was written for, or another plugin has replaced it; see docs/trainers.md."
            )
        mapping[kind] = ours  # type: ignore[index]
