"""verl (0.9): a checkpoint engine named ``hardpoint``, registered where verl looks for others'.

    actor_rollout_ref.rollout.checkpoint_engine.backend=hardpoint
    actor_rollout_ref.rollout.checkpoint_engine.custom_backend_module=hardpoint_trainers.adapters.verl

verl imports `custom_backend_module` on every worker and on the driver; importing this package registers the engine.
"""

from hardpoint_trainers.adapters.verl.engine import HardpointCheckpointEngine

__all__ = ["HardpointCheckpointEngine"]
