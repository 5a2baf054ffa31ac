"""Trainers whose weights are sharded: gathered group by group while an update is sent, within a byte budget."""

from hardpoint_trainers.sharded.stream import CheckpointStream

__all__ = ["CheckpointStream"]
